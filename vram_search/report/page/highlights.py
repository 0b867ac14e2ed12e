"""How the best trial and the sweet spot look, the same in every chart, and what is cut off."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vram_search.report.page.report_data import ReportData, names_of
from vram_search.report.page.svg import mark
from vram_search.store import TrialRecord


def highlight_legend(data: ReportData, drawn: Collection[int]) -> list[tuple[str, str]]:
    """Returns the legend of the best trial and the sweet spot, if their numbers are in `drawn`."""
    spot = data.sweet_spot
    if spot is None:
        return []
    trials = {trial.number: trial for trial in (spot.best, spot.trial)}
    return [
        (
            mark(highlight_shape(data, trial), 10, 8, 5, highlight_fill(data, trial)),
            names_of(data, trial),
        )
        for trial in trials.values()
        if trial.number in drawn
    ]


def highlight_shape(data: ReportData, trial: TrialRecord) -> str:
    """Returns the shape of a highlighted trial's mark."""
    return "star" if is_best(data, trial) else "diamond"


def highlight_fill(data: ReportData, trial: TrialRecord) -> str:
    return "best" if is_best(data, trial) else "sweet"


def highlight_stroke(data: ReportData, trial: TrialRecord) -> str:
    return "s4" if is_best(data, trial) else "s2"


def is_best(data: ReportData, trial: TrialRecord) -> bool:
    return data.best is not None and trial.number == data.best.number


def above(losses: Sequence[float], top: float, what: str = "trial") -> str:
    """Says how many losses are drawn at the upper edge; empty where none are."""
    count = sum(loss > top * (1 + 1e-9) for loss in losses)
    many = f"1 {what}" if count == 1 else f"{count} {what}s"
    return f" {many} above {top:.3g} at the upper edge." if count else ""
