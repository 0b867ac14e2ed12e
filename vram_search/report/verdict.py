"""A verdict for a terminal of 80 columns: fits or not, the parts, and what would help."""

from __future__ import annotations

import textwrap

from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.verdict import Verdict
from vram_search.report.parts import WIDTH, stacked_bar
from vram_search.units import format_bytes

_NAME_WIDTH = 34


def verdict_line(verdict: Verdict) -> str:
    """The answer in one line: "fits NVIDIA L4: 3.10 GiB to spare"."""
    word, what = ("fits", "to spare") if verdict.fits else ("does not fit", "too much")
    return f"{word} {verdict.limit.card.label}: {format_bytes(abs(verdict.spare_bytes))} {what}"


def verdict_lines(verdict: Verdict, *, with_changes: bool) -> list[str]:
    """What stands below the answer's line; `with_changes` also where it fits."""
    estimate, limit = verdict.estimate, verdict.limit
    needed = format_bytes(limit.needed_bytes(estimate.required_bytes))
    words = (
        f"{verdict.name}: {format_bytes(estimate.required_bytes)} required, {needed} with a "
        f"margin of {100 * limit.margin:.1f} %"
    )
    lines = [
        *_wrapped(words),
        *_wrapped(
            f"peak ({estimate.moment}): {format_bytes(estimate.allocated_bytes)} allocated; "
            f"{estimate.trainable_parameters:,} parameters are trained"
        ),
        *generic_lines(verdict.not_modelled, limit.margin),
        "",
        *stacked_bar(estimate.allocated_parts, estimate.required_bytes, limit.budget_bytes),
    ]
    if with_changes or not verdict.fits:
        lines += ["", *_change_lines(verdict)]
    return lines


def budget_lines(limit: MemoryBudget) -> list[str]:
    """The budget as a sum, and where the bytes of context and workspaces are from."""
    card = limit.card
    return [
        f"  budget {format_bytes(limit.budget_bytes)} = {format_bytes(card.total_bytes)} of the "
        f"card - {format_bytes(card.reserve_bytes)} reserve - "
        f"{format_bytes(limit.hardware.context_bytes)} context",
        f"  context and workspaces: {limit.origin}",
    ]


def generic_lines(not_modelled: tuple[str, ...], margin: float) -> list[str]:
    """The warning of a generic estimate; nothing for a family that is modelled."""
    if not not_modelled:
        return []
    words = (
        f"generic estimate, not modelled: {'; '.join(not_modelled)}; allow ±{100 * margin:.0f} %"
    )
    return _wrapped(words)


def _wrapped(words: str) -> list[str]:
    return textwrap.wrap(words, WIDTH, initial_indent="  ", subsequent_indent="    ")


def _change_lines(verdict: Verdict) -> list[str]:
    if not verdict.changes:
        return ["no change that is tried here saves bytes"]
    head, alone = "changes, the cheapest first", "" if verdict.fits else "alone"
    lines = [f"{head:<{_NAME_WIDTH}}  {'saves':>10}  {alone:<5}  costs"]
    for change in verdict.changes:
        name, *more = change.name.split(", ")
        fits = "fits" if change.fits and not verdict.fits else ""
        saved = format_bytes(change.saved_bytes)
        lines.append(f"  {name:<{_NAME_WIDTH - 2}}  {saved:>10}  {fits:<5}  {change.cost}")
        lines += [f"    {name}" for name in more]
    if verdict.fits:
        return lines
    if verdict.changes_to_fit is None:
        return [*lines, "all of them together are not enough"]
    if len(verdict.changes_to_fit) > 1:
        words = f"fits with: {'; '.join(verdict.changes_to_fit)}"
        lines += textwrap.wrap(words, WIDTH, subsequent_indent="  ")
    return lines
