"""The sentence with which an answer begins: what its figures mean."""

from __future__ import annotations

from collections.abc import Sequence

from vram_search.report.compare import Comparison
from vram_search.report.figures import required_bytes
from vram_search.report.importance import Importance
from vram_search.report.sweet_spot import Contender
from vram_search.report.winner import is_clear
from vram_search.store import TrialRecord
from vram_search.units import format_bytes, format_duration, percent

_DECIDES, _NO_DIFFERENCE = 0.1, 0.02
"""Shares of the spread of eval_loss."""


def importance_sentence(found: Sequence[Importance], objective: str) -> str:
    """Says which settings decided the objective, and which made no visible difference."""
    if not found:
        return ""
    decided = [item for item in found if item.share >= _DECIDES]
    idle = [item.name for item in found if item.share < _NO_DIFFERENCE]
    words = "No setting stands out."
    if decided:
        shares = ", ".join(f"{item.name} {percent(item.share)}" for item in decided)
        words = f"Of the spread of {objective} these settings explain: {shares}."
    if idle:
        words += f" No visible difference: {', '.join(idle)}; take the cheapest."
    return words


def pareto_sentence(front: Sequence[TrialRecord], smallest: Contender) -> str:
    """Says what more VRAM buys.

    Args:
        front: the Pareto front, fewest bytes first.
        smallest: its first trial beside its last one, the best.
    """
    best = front[-1]
    if smallest.trial is best:
        return f"More VRAM buys nothing: trial {best.number} is the best and needs the least."
    gain, number = smallest.difference, smallest.trial.number
    more = (required_bytes(best)[0] or 0) - (required_bytes(smallest.trial)[0] or 0)
    words = f"{format_bytes(more)} more VRAM (trial {best.number} instead of {number}) "
    if not is_clear(gain, smallest.standard_error, best.value or 0.0):
        return f"{words}make no practical difference: {best.value_name} is {gain:.4f} lower."
    return f"{words}buy {gain:.4f} lower {best.value_name}."


def top_sentence(best: TrialRecord | None, second: Contender | None, is_comparable: bool) -> str:
    """Says which trial is the best, and whether the second is clearly behind.

    Args:
        best: None if no trial is complete.
        second: beside the best; None if there is none.
        is_comparable: False for imported runs, whose evaluation rows may differ.
    """
    if best is None:
        return "No trial is complete yet."
    loss = best.value or 0.0
    words = f"Trial {best.number} is the best: {best.value_name} {loss:.4f}"
    if second is None:
        return f"{words}; no other trial is complete."
    words += f". Trial {second.trial.number} is {second.difference:.4f} behind"
    if not is_comparable:
        return f"{words}."
    is_clearly = is_clear(second.difference, second.standard_error, loss)
    return f"{words}: {'a clear difference' if is_clearly else 'no practical difference'}."


def compare_sentence(found: Comparison, first: int, second: int) -> str:
    """Says which trial is better, by how much, and what it costs.

    Args:
        first: number of the first trial.
        second: number of the second; differences are its figures minus the first's.
    """
    loss = found.loss
    if loss is None:
        return f"Trials {first} and {second} have no {found.objective} at the same point."
    words = f"Trial {second} is {'better' if loss.difference < 0 else 'worse'} by "
    words += f"{abs(loss.difference):.4f}"
    if loss.standard_error:
        words += f" (clear: {abs(loss.difference) / loss.standard_error:.1f} x its uncertainty)"
    if not is_clear(loss.difference, loss.standard_error, min(loss.first, loss.second)):
        words = f"Trials {first} and {second} show no practical difference in {found.objective}"
        words += f" ({abs(loss.difference):.4f})"
    times = [figure for figure in found.seconds if figure.name == "total"]
    size = next((figure for figure in found.bytes if figure.name == "required_bytes"), None)
    if size is not None and size.difference and size.first:
        more = "more" if size.difference > 0 else "less"
        words += f"; trial {second} needs {format_bytes(abs(size.difference))} {more} VRAM"
    if times and times[0].difference and abs(times[0].difference) >= 1:
        slower = "slower" if times[0].difference > 0 else "faster"
        words += f"; trial {second} was {format_duration(abs(times[0].difference))} {slower}"
    return f"{words}."
