"""Charts of the search: what mattered, and eval_loss along every hyperparameter."""

from __future__ import annotations

from typing import Any

from vram_search.report.figures import comparable
from vram_search.report.importance import FEWEST_TRIALS, Group, Importance
from vram_search.report.page.report_data import ReportData
from vram_search.report.page.scales import Scale, linear, logarithmic, short_number, steps
from vram_search.report.page.svg import (
    LEFT,
    LETTER_WIDTH,
    RIGHT,
    WIDTH,
    Chart,
    Plot,
    box,
    line,
    mark,
    plot_area,
    text,
)
from vram_search.spec.hyperparameters import BY_NAME
from vram_search.units import percent

_NAMES_WIDTH = 112
_ROW = 26
_SPREAD = 0.18
"""Marks of one value are spread sideways by this share of a step, so that they show."""
_WIDE_RANGE = 8
"""Numbers whose largest is so many times the smallest get a logarithmic axis."""


def importance_chart(data: ReportData) -> Chart:
    """A bar a hyperparameter."""
    title = "Importance of the hyperparameters"
    found = data.importances
    if not found:
        why = f"Needs {FEWEST_TRIALS} complete trials and hyperparameters that varied."
        return Chart("importance", title, "", 0, "", why)
    height, full = len(found) * _ROW + 12, WIDTH - _NAMES_WIDTH - RIGHT - 48
    parts = []
    for row, item in enumerate(found):
        y = 6 + row * _ROW
        share = percent(item.share, 1)
        tip = f"{item.name}: {share} of the spread of {data.study.ranked_by.name} ranks"
        parts.append(text(_NAMES_WIDTH - 8, y + 15, item.name, "end"))
        parts.append(box(_NAMES_WIDTH, y + 3, max(full * item.share, 1), _ROW - 9, "f0", tip))
        at = _NAMES_WIDTH + full * item.share + 6
        parts.append(text(at, y + 15, f"{percent(item.share)}", "label"))
    parts.append(line(_NAMES_WIDTH, 2, _NAMES_WIDTH, height - 4, "axis"))
    count = len(comparable(data.trials))
    return Chart(
        "importance",
        title,
        ", ".join(f"{item.name} {percent(item.share)}" for item in found),
        height,
        "".join(parts),
        f"Share of the spread of {data.study.ranked_by.name} (ranks of {count} complete trials) "
        "between the values of one hyperparameter, less what chance explains "
        "(epsilon squared). Main effects only: they need not add up to 100 %, and the sampler did "
        "not visit all values alike.",
    )


def slice_charts(data: ReportData) -> list[Chart]:
    """A chart a hyperparameter that varied: every complete trial, and medians of its groups."""
    return [_slice(data, item) for item in data.importances]


def _slice(data: ReportData, item: Importance) -> Chart:
    height = 220
    across, up = plot_area(height)
    value_in = BY_NAME[item.name].value_in
    trials = [one for one in comparable(data.trials) if value_in(one.hyperparameters) is not None]
    losses = [trial.value or 0.0 for trial in trials]
    top = min(max(losses), data.loss_ceiling)
    values = [value_in(trial.hyperparameters) for trial in trials]
    x_axis, places = _value_axis(values, across)
    plot = Plot(x_axis, linear([min(losses), top], *up), height)
    plot.axes(item.name, data.study.ranked_by.name)
    is_named = not x_axis.is_log and set(places) <= set(x_axis.labels)
    for index, (trial, place) in enumerate(zip(trials, places, strict=True)):
        shift = (((index * 7) % 15) / 7 - 1) * _SPREAD if is_named else 0.0
        plot.mark("circle", place + shift, trial.value or 0.0, "f0 faint", trial.number, 2.5)
    for group in item.groups:
        inside = [
            place for place, value in zip(places, values, strict=True) if _is_in(value, group)
        ]
        y = plot.y.pixel(group.median_loss)
        low, high = plot.x.pixel(min(inside)), plot.x.pixel(max(inside))
        low, high = (low - 14, high + 14) if high - low < 8 else (low, high)
        plot.parts.append(line(max(low, LEFT), y, min(high, WIDTH - RIGHT), y, "median"))
    medians = ", ".join(f"{g.label}: {g.median_loss:.4f}" for g in item.groups)
    return Chart(
        f"slice-{item.name}",
        f"{data.study.ranked_by.name} by {item.name}",
        f"Medians {medians}",
        height,
        plot.body,
    )


def _is_in(value: Any, group: Group) -> bool:
    if isinstance(value, str) or isinstance(group.low, str):
        return str(value) == str(group.low)
    return bool(group.low <= value <= group.high)


def _value_axis(values: list[Any], across: tuple[float, float]) -> tuple[Scale, list[float]]:
    """The axis of a hyperparameter and each value's place on it."""
    if any(isinstance(value, float) for value in values) and all(
        isinstance(value, int | float) and value > 0 for value in values
    ):
        numbers = [float(value) for value in values]
        wide = max(numbers) / min(numbers) >= _WIDE_RANGE
        return (logarithmic if wide else linear)(numbers, *across), numbers
    distinct: list[Any] = sorted(set(values), key=_order)
    names = [short_number(v) if isinstance(v, int) else str(v) for v in distinct]
    room = int((across[1] - across[0]) / len(names) / LETTER_WIDTH)
    names = [name if len(name) <= room else name[: max(1, room - 1)] + "…" for name in names]
    return steps(names, *across), [float(distinct.index(value)) for value in values]


def _order(value: Any) -> tuple[bool, Any]:
    return (False, value) if isinstance(value, int) else (True, str(value))


LEGEND = [
    (mark("circle", 10, 8, 3, "f0 faint"), "a complete trial"),
    (line(2, 8, 18, 8, "median"), "median of the value or range"),
]
"""The legend of all slices."""
