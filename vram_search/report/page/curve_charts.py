"""Learning curves: eval_loss of all trials, and the training loss of those that matter."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vram_search.report.page.highlights import (
    above,
    highlight_fill,
    highlight_legend,
    highlight_shape,
    highlight_stroke,
    is_best,
)
from vram_search.report.page.report_data import ReportData, names_of
from vram_search.report.page.scales import linear
from vram_search.report.page.svg import Chart, Plot, plot_area
from vram_search.store import StepLoss, TrialRecord
from vram_search.units import counted

Curves = list[tuple[TrialRecord, list[tuple[float, float]]]]

MANY = 40
"""More curves than this are drawn thin."""
MOST_CURVES = 20
"""Only this number of curves is drawn, the best ones."""
MOST_POINTS = 240
"""Number of points of a training curve."""


def eval_curves_chart(data: ReportData) -> Chart:
    """eval_loss at every evaluation of every trial, along the run."""
    name = data.study.ranked_by.name
    title = f"Learning curves: {name}"
    curves = [
        (trial, points)
        for trial in data.trials
        if (
            points := [
                (100 * e.fraction, value)
                for e in data.evaluations.get(trial.number, [])
                if (value := data.study.ranked_by.value_of(e)) is not None
                and e.fraction > 0  # 0: an import does not know it
            ]
        )
    ]
    if not curves:
        return Chart(
            "eval-curves", title, "", 0, "", "No trial has an evaluation at a known step yet."
        )
    losses = [loss for _, points in curves for _, loss in points]
    first = sorted(points[0][1] for _, points in curves)
    top = max(min(max(losses), first[int(0.95 * (len(first) - 1))]), min(losses) * 1.01)
    across, up = plot_area(320)
    plot = Plot(linear([0, 100], *across, pad=0.02), linear([min(losses), top], *up), 320)
    plot.axes("training progress, %", name)
    highlighted = set(data.step_losses)
    many = " many" if len(curves) > MANY else ""
    drawn = _drawn(curves, highlighted)
    for trial, points in drawn:
        if trial.number in highlighted:
            continue
        style = "s0" if trial.outcome == "complete" else "s7 dashed"
        if many and trial.outcome != "complete":
            style = "s7"
        _draw_curve(plot, points, f"curve {style}{many}", trial.number)
    for trial, points in curves:
        if trial.number in highlighted:
            _draw_curve(plot, points, f"curve bold {highlight_stroke(data, trial)}", trial.number)
            for x, y in points:
                plot.mark(
                    highlight_shape(data, trial), x, y, highlight_fill(data, trial), trial.number
                )
    sample = "M2 8L18 8"
    legend = [
        (f"<path d='{sample}' class='curve s0'/>", "complete"),
        (f"<path d='{sample}' class='curve s7{'' if many else ' dashed'}'/>", "ended earlier"),
        *highlight_legend(data, [trial.number for trial, _ in curves]),
    ]
    return Chart(
        "eval-curves",
        title,
        f"{counted(len(curves), 'trial', 'trials')}, evaluated at their rungs.",
        320,
        plot.body,
        f"One line per trial, from rung to rung.{_left_out(curves, drawn)}"
        f"{above(losses, top, 'evaluation')}",
        legend,
    )


def _drawn(curves: Curves, highlighted: set[int]) -> Curves:
    """All curves, or of many the best finished ones: a thousand lines show nothing."""
    if len(curves) <= MANY:
        return curves
    complete = [curve for curve in curves if curve[0].outcome == "complete"]
    best = sorted(complete, key=lambda curve: curve[0].value or math.inf)[:MOST_CURVES]
    return [*best, *(curve for curve in curves if curve[0].number in highlighted)]


def _left_out(curves: Curves, drawn: Curves) -> str:
    left = len(curves) - len({trial.number for trial, _ in drawn})
    return f" Drawn are the best {MOST_CURVES}; {left} others are left out." if left > 0 else ""


def train_curves_chart(data: ReportData) -> Chart:
    """Training loss of the best trial and the sweet spot, step by step."""
    title = "Learning curves: training loss"
    curves = []
    for trial in data.trials:
        steps = thinned(data.step_losses.get(trial.number, []))
        if len(steps) > 1:
            total = max(trial.steps_total, steps[-1][0], 1)
            curves.append((trial, [(100 * step / total, loss) for step, loss in steps]))
    if not curves:
        return Chart("train-curves", title, "", 0, "", "No training losses are recorded.")
    losses = sorted(loss for _, points in curves for _, loss in points)
    top = max(losses[int(0.98 * (len(losses) - 1))], losses[0] + 1e-6)
    across, up = plot_area(280)
    plot = Plot(linear([0, 100], *across, pad=0.02), linear([losses[0], top], *up), 280)
    plot.axes("training progress, %", "training loss")
    legend = []
    for trial, points in curves:
        dashed = "" if is_best(data, trial) else " dashed"
        style = f"curve {highlight_stroke(data, trial)}{dashed}"
        plot.curve(points, style, trial.number)
        legend.append((f"<path d='M2 8L18 8' class='{style}'/>", names_of(data, trial)))
    return Chart(
        "train-curves",
        title,
        "; ".join(names_of(data, trial) for trial, _ in curves),
        280,
        plot.body,
        f"As logged at each optimizer step.{above(losses, top, 'step')}",
        legend,
    )


def thinned(steps: Sequence[StepLoss]) -> list[tuple[float, float]]:
    """At most MOST_POINTS of (step, loss): means of as many stretches; not-finite ones left out."""
    finite = [(float(step.step), step.loss) for step in steps if step.loss is not None]
    stride = max(1, math.ceil(len(finite) / MOST_POINTS))
    pieces = [finite[start : start + stride] for start in range(0, len(finite), stride)]
    return [(piece[-1][0], sum(loss for _, loss in piece) / len(piece)) for piece in pieces]


def _draw_curve(plot: Plot, points: list[tuple[float, float]], style: str, number: int) -> None:
    """A single evaluation is a short dash, not an invisible line."""
    if len(points) == 1:
        (x, y), half = points[0], 0.7
        points = [(x - half, y), (x + half, y)]
    plot.curve(points, style, number)
