"""The history of the search: the best eval_loss over time, with every trial that led to it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from vram_search.report.page.highlights import highlight_fill, highlight_legend, highlight_shape
from vram_search.report.page.report_data import ReportData
from vram_search.report.page.scales import linear
from vram_search.report.page.svg import Chart, Plot, line, mark, plot_area, text
from vram_search.store import TrialRecord
from vram_search.units import counted, percent

_HOUR = 3600.0
_HOURS_FROM = 2 * _HOUR
"""Shorter searches are drawn in minutes."""


def history_chart(data: ReportData) -> Chart:
    """eval_loss over the time that the search ran, with a line of the best so far."""
    objective = data.study.ranked_by
    title = f"History: the best {objective.name} so far"
    ended = sorted(
        (trial for trial in data.trials if trial.finished_at is not None and _loss(data, trial)),
        key=lambda trial: trial.finished_at or trial.started_at,
    )
    complete = [trial for trial in ended if trial.outcome == "complete"]
    if not complete:
        return Chart("history", title, "", 0, "", "No trial is complete yet.")
    at = _running_seconds(data.trials)
    span = max(at[trial.number] for trial in ended)
    unit, name = (_HOUR, "hours") if span >= _HOURS_FROM else (60.0, "minutes")
    losses = [_loss(data, trial) for trial in complete]
    usual = None if data.winner is None or data.winner.usual is None else data.winner.usual.trial
    top = max(min(max(losses), data.loss_ceiling), losses[0], min(losses) * 1.002)
    across, up = plot_area(300, top=26)
    plot = Plot(linear([0.0, span / unit], *across, pad=0.02), linear([min(losses), top], *up), 300)
    plot.axes(f"{name} of searching", objective.name)
    _draw_levels(plot, data, usual, top)
    best = float("inf")
    steps: list[tuple[float, float]] = []
    for trial in complete:
        x, loss = at[trial.number] / unit, _loss(data, trial)
        if loss < best:
            steps += [(x, best), (x, loss)] if steps else [(x, loss)]
            best = loss
    plot.curve([*steps, (span / unit, best)], "curve bold s0")
    for trial in ended:
        style = "f0 faint" if trial.outcome == "complete" else "f7 faint"
        shape = "circle" if trial.outcome == "complete" else "triangle"
        plot.mark(shape, at[trial.number] / unit, _loss(data, trial), style, trial.number, 3.5)
    winner = data.best if data.best is not None and data.best.number in at else None
    if winner is not None:
        x, y = at[winner.number] / unit, winner.value or 0.0
        shape, fill = highlight_shape(data, winner), highlight_fill(data, winner)
        plot.mark(shape, x, y, fill, winner.number, 7)
    legend = [
        ("<path d='M2 8L18 8' class='curve bold s0'/>", "best so far"),
        (mark("circle", 10, 8, 4, "f0 faint"), "finished"),
        (mark("triangle", 10, 8, 4, "f7 faint"), "stopped early"),
        *highlight_legend(data, [] if winner is None else [winner.number]),
    ]
    return Chart(
        "history",
        title,
        f"{counted(len(complete), 'finished trial', 'finished trials')}; the best is {best:.4f}.",
        300,
        plot.body,
        f"Pauses between runs are left out. {_since_words(data, at, span)}",
        legend,
    )


def _loss(data: ReportData, trial: TrialRecord) -> float:
    """A trial's eval_loss, or the last one of a stopped trial; 0 if it has none."""
    if trial.value is not None:
        return trial.value
    evaluations = data.evaluations.get(trial.number, [])
    values = map(data.study.ranked_by.value_of, evaluations)
    known = [value for value in values if value is not None]
    return known[-1] if known else 0.0


def _running_seconds(trials: Sequence[TrialRecord]) -> dict[int, float]:
    """Seconds of searching until each trial's end, by number; longer pauses are left out."""
    found: dict[int, float] = {}
    clock = 0.0
    previous: datetime | None = None
    ended = [(t.finished_at, t) for t in trials if t.finished_at is not None]
    for end, trial in sorted(ended, key=lambda pair: pair[0]):
        start = trial.started_at
        if previous is not None:
            gap = (start - previous).total_seconds()
            clock += gap if 0 < gap < _HOUR else 0.0
            start = max(start, previous)
        clock += max(0.0, (end - start).total_seconds())
        found[trial.number], previous = clock, end
    return found


def _draw_levels(plot: Plot, data: ReportData, usual: TrialRecord | None, top: float) -> None:
    """Lines of the usual settings and of the untuned model, or words if it is far above."""
    left, right = plot.x.start, plot.x.end
    if usual is not None and (usual.value or 0.0) <= top and usual is not data.best:
        y = plot.y.pixel(usual.value or 0.0)
        plot.parts.append(line(left, y, right, y, "front"))
        plot.parts.append(text(right, y - 4, "usual settings", "small label end halo"))
    if data.winner is not None and (untuned := data.winner.untuned_loss):
        if untuned <= top:
            y = plot.y.pixel(untuned)
            plot.parts.append(line(left, y, right, y, "limit"))
        words = f"untuned model {untuned:.4f}{'' if untuned <= top else ' ↑ far above'}"
        plot.parts.append(text(right, 14, words, "small limit-name end halo"))


def _since_words(data: ReportData, at: dict[int, float], span: float) -> str:
    """Says how long nothing has improved."""
    if data.best is None or data.best.number not in at or span <= 0:
        return ""
    share = 1 - at[data.best.number] / span
    return f"Nothing improved in the last {percent(share)} of the time." if share >= 0.1 else ""
