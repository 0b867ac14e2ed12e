"""Charts of bytes: a peak by part, predicted beside measured, and errors of the predictions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from vram_search.report.page.report_data import ReportData, names_of
from vram_search.report.page.scales import gib, linear
from vram_search.report.page.svg import (
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
from vram_search.store import TrialRecord
from vram_search.units import format_bytes, percent

PART_STYLES = {
    "base_weights": 0,
    "upcasts": 6,
    "adapter": 2,
    "optimizer": 4,
    "saved_activations": 1,
    "activations": 1,
    "logits": 3,
    "workspaces": 5,
    "allocator_slack": 9,
    "context": 7,
}
_OTHER_STYLE = 8
MOST_OTHERS = 4
"""Further trials of the Pareto front whose parts are drawn."""
FAR = 2.0
"""A limit above this multiple of the largest bar is named, not drawn."""
_BAR, _LABEL = 20, 17
_START = 14
RATIO_MARKS = {
    "allocated_bytes": ("circle", "f0"),
    "reserved_bytes": ("triangle", "f1"),
    "process_bytes": ("square", "f2"),
    "required_bytes": ("diamond", "f3"),
}


def memory_chart(data: ReportData) -> Chart:
    """Stacked parts of the peaks of the trials that matter."""
    title = "Where the VRAM goes"
    bars = _bars(data, shown_trials(data)[:1])
    if not bars:
        return Chart("memory", title, "", 0, "", "No trial has its bytes by part.")
    return parts_chart("memory", title, bars, _process_limit(data), _memory_note(data))


def other_memory_chart(data: ReportData) -> Chart:
    """Stacked parts of the peaks of the sweet spot and of other trials of the Pareto front."""
    title = "Where the VRAM of other trials goes"
    bars = _bars(data, shown_trials(data)[1 : 1 + MOST_OTHERS])
    if not bars:
        return Chart("memory-others", title, "", 0, "", "No other trial needs less VRAM.")
    return parts_chart("memory-others", title, bars, _process_limit(data), "")


def parts_chart(
    key: str,
    title: str,
    bars: Sequence[tuple[str, Mapping[str, int]]],
    limit: int | None,
    caption: str,
    far: float = FAR,
) -> Chart:
    """Stacked bars of bytes by part, against a limit.

    Args:
        bars: name and bytes by part of each.
        limit: bytes; None draws no limit.
        far: a limit above this multiple of the largest bar is not drawn.
    """
    largest = max(sum(parts.values()) for _, parts in bars)
    near = limit is not None and limit <= far * largest
    height = len(bars) * (_BAR + _LABEL + 6) + 52
    shown = [float(largest)] + ([float(limit)] if limit and near else [])
    x = gib([0.0, *shown], _START, WIDTH - RIGHT, from_zero=True)
    bottom = height - 44
    out = [_PATTERNS]
    for value, label in x.labels.items():
        at = x.pixel(value)
        out.append(line(at, 4, at, bottom, "grid"))
        out.append(text(at, bottom + 16, label, "tick middle"))
    out.append(text((x.start + x.end) / 2, bottom + 34, "GiB", "name middle"))
    for row, (name, parts) in enumerate(bars):
        y = 4 + row * (_BAR + _LABEL + 6)
        total = sum(parts.values())
        out.append(text(_START, y + 12, f"{name}: {format_bytes(total)}", "halo"))
        begin = 0.0
        for part, size in parts.items():
            left, right = x.pixel(begin), x.pixel(begin + size)
            tip = f"{name}, {part}: {format_bytes(size)}, {percent(size / total)}"
            out.append(_segment(part, left, y + _LABEL, right - left, tip))
            begin += size
        if limit is not None and near and total < limit:
            out.append(_free(x.pixel(total), x.pixel(limit), y + _LABEL, limit - total))
    if limit is not None and near:
        at = x.pixel(limit)
        out.append(line(at, 0, at, bottom, "limit"))
    names = list(dict.fromkeys(part for _, parts in bars for part in parts))
    legend = [(_sample(name), name.replace("_", " ")) for name in names]
    if limit is not None and near:
        legend.append((line(10, 0, 10, 16, "limit"), f"card without reserve {format_bytes(limit)}"))
    count = f"{len(bars)} bars." if len(bars) > 1 else "1 bar."
    return Chart(key, title, count, height, "".join(out), caption, legend)


def prediction_chart(data: ReportData) -> Chart:
    """Measured over predicted bytes."""
    title = "Prediction against measurement"
    points = [
        (name, trial, predicted, measured)
        for trial in data.trials
        for name in RATIO_MARKS
        if (predicted := (trial.predicted or {}).get(name))
        and (measured := (trial.measured or {}).get(name))
    ]
    if not points:
        why = "No bytes were measured: this study ran without a GPU, or its trials were imported."
        return Chart("prediction", title, "", 0, "", why)
    ratios = [measured / predicted for _, _, predicted, measured in points]
    across, up = plot_area(300)
    y = linear([*(100 * (ratio - 1) for ratio in ratios), 0.0], *up)
    plot = Plot(gib([float(p) for _, _, p, _ in points], *across), y, 300)
    plot.axes("predicted, GiB", "measured - predicted, %")
    zero = plot.y.pixel(0)
    plot.parts.append(line(across[0], zero, across[1], zero, "median"))
    for (name, trial, predicted, _), ratio in zip(points, ratios, strict=True):
        shape, style = RATIO_MARKS[name]
        plot.mark(shape, predicted, 100 * (ratio - 1), f"{style} faint", trial.number, 3.5)
    legend, notes = [], []
    for name, (shape, style) in RATIO_MARKS.items():
        errors = [abs(r - 1) for (n, *_), r in zip(points, ratios, strict=True) if n == name]
        if errors:
            legend.append((mark(shape, 10, 8, 4.5, style), name.replace("_", " ")))
            middle, most = statistics.median(errors), max(errors)
            notes.append(
                f"{name.replace('_', ' ')} {percent(middle, 1)} off in the median, "
                f"{percent(most, 1)} at most"
            )
    caption = "Above 0 % the run needed more than predicted. " + "; ".join(notes) + "."
    return Chart("prediction", title, f"{len(points)} pairs.", 300, plot.body, caption, legend)


def shown_trials(data: ReportData) -> list[TrialRecord]:
    """The best, the sweet spot, then the rest of the Pareto front from its low-loss end.

    The best is the first.
    """
    if data.sweet_spot is None:
        return []
    wanted = [data.sweet_spot.best, data.sweet_spot.trial, *reversed(data.front)]
    by_number = {trial.number: trial for trial in wanted}
    return list(by_number.values())


def measured_parts(trial: TrialRecord) -> dict[str, int]:
    """Measured parts of the allocated peak, and what the allocator and the context add to it.

    Empty where the parts were not measured.
    """
    measured = trial.measured or {}
    parts = dict(measured.get("parts") or {})
    if not parts:
        return {}
    reserved, process = measured.get("reserved_bytes"), measured.get("process_bytes")
    if reserved and "allocator_slack" not in parts and reserved > sum(parts.values()):
        parts["allocator_slack"] = reserved - sum(parts.values())
    if process and reserved and "context" not in parts and process > reserved:
        parts["context"] = process - reserved
    return parts


def _bars(data: ReportData, trials: Sequence[TrialRecord]) -> list[tuple[str, dict[str, int]]]:
    """Name and parts of each trial's bars, without those that are not known."""
    bars = []
    for trial in trials:
        name = names_of(data, trial)
        predicted = (trial.predicted or {}).get("parts") or {}
        bars.append((f"{name}, predicted", _positive(predicted)))
        bars.append((f"{name}, measured", _positive(measured_parts(trial))))
    return [(name, parts) for name, parts in bars if parts]


def _positive(parts: Mapping[str, int | None]) -> dict[str, int]:
    return {str(name): int(size) for name, size in parts.items() if size and size > 0}


def _process_limit(data: ReportData) -> int | None:
    """Total less reserve: the parts hold the context."""
    card = data.study.card
    total = card.get("total_bytes")
    return int(total) - int(card.get("reserve_bytes", 0)) if total else None


def _memory_note(data: ReportData) -> str:
    limit = _process_limit(data)
    card = "" if limit is None else f" The card has {format_bytes(limit)} without its reserve."
    has_measured = any(measured_parts(trial) for trial in shown_trials(data)[:1])
    measured = "" if has_measured else " No measured parts are recorded for this trial."
    return f"Peak of the process by what it is for, with the CUDA context.{card}{measured}"


def _style(part: str) -> int:
    return PART_STYLES.get(part, _OTHER_STYLE)


def _segment(part: str, left: float, top: float, width: float, tip: str) -> str:
    pattern = _PATTERN_OF.get(part, "")
    found = box(left, top, width, _BAR, f"part f{_style(part)}", tip)
    if pattern:
        found += (
            f"<rect x='{left:.1f}' y='{top:.1f}' width='{max(width, 0):.1f}' height='{_BAR}' "
            f"fill='url(#{pattern})' pointer-events='none'/>"
        )
    label = part.replace("_", " ")
    if width > len(label) * LETTER_WIDTH + 8:
        style = "small halo middle" if pattern else "on middle"
        found += text(left + width / 2, top + 14, label, style, "pointer-events='none'")
    return found


def _free(left: float, right: float, top: float, size: int) -> str:
    """The bytes between a bar and the limit, as an empty frame."""
    words = f"free {format_bytes(size)}"
    found = box(left, top, right - left, _BAR, "free", words)
    if right - left > len(words) * LETTER_WIDTH + 8:
        middle = (left + right) / 2
        found += text(middle, top + 14, words, "small label middle", "pointer-events='none'")
    return found


def _sample(part: str) -> str:
    pattern = _PATTERN_OF.get(part, "")
    over = f"<rect x='2' y='2' width='16' height='12' fill='url(#{pattern})'/>" if pattern else ""
    return box(2, 2, 16, 12, f"f{_style(part)}") + over


_PATTERN_OF = {
    "upcasts": "rising",
    "adapter": "dots",
    "optimizer": "falling",
    "logits": "rising",
    "workspaces": "dots",
    "allocator_slack": "falling",
    "context": "crossed",
}
"""Neighbours differ by more than colour: every second part is patterned."""
_PATTERNS = (
    "<defs>"
    "<pattern id='rising' width='6' height='6' patternUnits='userSpaceOnUse'>"
    "<path d='M-1 1L1 -1M0 6L6 0M5 7L7 5' class='hatch'/></pattern>"
    "<pattern id='falling' width='6' height='6' patternUnits='userSpaceOnUse'>"
    "<path d='M-1 5L1 7M0 0L6 6M5 -1L7 1' class='hatch'/></pattern>"
    "<pattern id='dots' width='5' height='5' patternUnits='userSpaceOnUse'>"
    "<circle cx='2.5' cy='2.5' r='1.2' class='dot'/></pattern>"
    "<pattern id='crossed' width='7' height='7' patternUnits='userSpaceOnUse'>"
    "<path d='M0 0L7 7M0 7L7 0' class='hatch'/></pattern>"
    "</defs>"
)
