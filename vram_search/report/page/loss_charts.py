"""Charts of eval_loss: against VRAM, and against model size."""

from __future__ import annotations

from collections.abc import Sequence

from vram_search.report.figures import comparable, required_bytes
from vram_search.report.page.highlights import (
    above,
    highlight_fill,
    highlight_legend,
    highlight_shape,
)
from vram_search.report.page.report_data import ReportData, StudyBest
from vram_search.report.page.scales import gib, linear, logarithmic, short_number
from vram_search.report.page.svg import (
    LETTER_WIDTH,
    WIDTH,
    Chart,
    Plot,
    line,
    mark,
    plot_area,
    text,
)
from vram_search.store import OUTCOMES, TrialRecord
from vram_search.store.records import UNKNOWN_DATA
from vram_search.units import counted, format_bytes

OUTCOME_MARKS = {
    "complete": ("circle", "f0"),
    "pruned": ("triangle", "f7"),
    "oom": ("cross", "s8"),
    "infeasible": ("down", "f3"),
    "diverged": ("plus", "s1"),
    "lost": ("square", "f7"),
    "unknown": ("diamond", "f7"),
}
FAR = 1.4
"""A limit above this multiple of the largest complete trial is named at the edge, not drawn."""
_TOO_FAR = 1.3
"""Trials that need this much more than the limit and all complete ones are drawn at the edge."""
_ABOVE, _STRIP = 10, 20
"""Words above the axis, and trials without a final eval_loss below them."""


def vram_chart(data: ReportData) -> Chart:
    """eval_loss against required bytes, with the limit and the Pareto front."""
    sized = [(trial, size) for trial in data.trials if (size := required_bytes(trial)[0])]
    losses = [trial.value or 0.0 for trial, _ in sized if _has_loss(trial)]
    name = data.study.ranked_by.name
    title = f"{name} against VRAM"
    if not losses:
        return Chart("vram", title, "", 0, "", "No complete trial has its bytes yet.")
    limit, largest = data.limit_bytes, max(size for trial, size in sized if _has_loss(trial))
    near = limit is not None and limit <= FAR * largest
    across, up = plot_area(320, top=34)
    shown = [float(size) for _, size in sized] + ([float(limit)] if limit and near else [])
    edge = _TOO_FAR * max(limit if limit and near else 0, *(s for t, s in sized if _has_loss(t)))
    top = min(max(losses), data.loss_ceiling)
    plot = Plot(gib([min(s, edge) for s in shown], *across), linear([min(losses), top], *up), 320)
    plot.axes("VRAM needed, GiB", name)
    plot.parts.append(text(across[0], _ABOVE, f"without a final {name}", "small label"))
    if limit is not None:
        _draw_limit(plot, limit, near)
    front = [(float(required_bytes(t)[0] or 0), t.value or 0.0) for t in data.front]
    if len(front) > 1:
        plot.curve(_stairs(front), "front")
    size = 4 if len(sized) < 200 else 3
    for trial, needed in sized:
        shape, style = OUTCOME_MARKS.get(trial.outcome or "", ("circle", "f7"))
        if _has_loss(trial):
            plot.mark(shape, needed, trial.value or 0.0, f"{style} faint", trial.number, size)
        else:
            x = plot.x.pixel(needed)
            plot.parts.append(mark(shape, x, _STRIP, 3, f"{style} faint", trial.number))
    _draw_highlights(plot, data)
    there = [o for o in OUTCOMES if any(trial.outcome == o for trial, _ in sized)]
    legend: list[tuple[str, str]] = [(mark(*_legend_mark(o)), o) for o in there]
    legend += highlight_legend(data, [trial.number for trial, _ in sized])
    if len(front) > 1:
        legend.append((line(2, 8, 18, 8, "front"), "best loss for its VRAM"))
    origins = {required_bytes(trial)[1] for trial, _ in sized}
    return Chart(
        "vram",
        title,
        f"{counted(len(losses), 'complete trial', 'complete trials')}; the Pareto front has "
        f"{len(data.front)}.",
        320,
        plot.body,
        f"VRAM needed, {' or '.join(sorted(origins))}. Above the axis: trials that ended "
        f"early.{above(losses, top)}{_beyond(shown, edge)}",
        legend,
    )


def model_size_chart(data: ReportData) -> Chart:
    """Best eval_loss against the model's parameters, of studies with the same rows.

    Losses on other rows do not compare, and one model shows nothing: the chart is empty then.
    """
    name = data.study.ranked_by.name
    title = f"{name} against model size"
    known = [best for best in data.bests if best.parameters and _has_same_rows(data, best)]
    if len({best.model for best in known}) < 2:
        return Chart("model-size", title, "", 0, "", "Fewer than two models have the same rows.")
    across, up = plot_area(300)
    sizes = [float(best.parameters or 1) for best in known]
    losses = [best.trial.value or 0.0 for best in known]
    plot = Plot(logarithmic(sizes, *across), linear(losses, *up, pad=0.12), 300)
    plot.axes("parameters of the base model", f"best {name}")
    taken: list[tuple[float, float, float]] = []
    for best in sorted(known, key=lambda b: b.trial.value or 0.0):
        own = best.study.id == data.study.id
        tip = (
            f"{best.name}: {best.model}, "
            f"{short_number(float(best.parameters or 0))} parameters, "
            f"{name} {best.trial.value:.4f}"
        )
        x, y = float(best.parameters or 1), best.trial.value or 0.0
        plot.mark("circle", x, y, "f0" if own else "f7", tip, size=6 if own else 5)
        _name_beside(plot, x, y, best, own, taken)
    return Chart(
        "model-size",
        title,
        f"{counted(len(known), 'trial', 'trials')}.",
        300,
        plot.body,
        "The best complete trial of each study with the same rows, of imported runs that of each "
        "model. Losses compare where the tokenizer is the same; bits per byte, in the table of "
        "studies, compare between tokenizers.",
    )


def _has_same_rows(data: ReportData, best: StudyBest) -> bool:
    if best.study.id == data.study.id:
        return True
    own, other = data.study.data_hash, best.study.data_hash
    return own == other and own != UNKNOWN_DATA


def _draw_limit(plot: Plot, limit: int, near: bool) -> None:
    words = f"limit {format_bytes(limit)}"
    if near:
        x = plot.x.pixel(limit)
        plot.parts.append(line(x, plot.y.end - 4, x, plot.y.start, "limit"))
        middle = (plot.y.start + plot.y.end) / 2
        turn = f"transform='rotate(-90 {x - 5:.0f} {middle:.0f})'"
        plot.parts.append(text(x - 5, middle, words, "limit-name middle halo", turn))
    else:
        plot.parts.append(
            text(plot.x.end, _ABOVE, f"{words} (further right)", "small limit-name end")
        )


def _draw_highlights(plot: Plot, data: ReportData) -> None:
    spot = data.sweet_spot
    if spot is None:
        return
    for trial in (spot.best, spot.trial):
        if (size := required_bytes(trial)[0]) is not None:
            plot.mark(
                highlight_shape(data, trial),
                size,
                trial.value or 0.0,
                highlight_fill(data, trial),
                trial.number,
                size=7,
            )


def _stairs(front: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """With more bytes nothing is lost: the front is a step function."""
    stairs = [front[0]]
    for x, y in front[1:]:
        stairs += [(x, stairs[-1][1]), (x, y)]
    return stairs


def _legend_mark(outcome: str) -> tuple[str, float, float, float, str]:
    shape, style = OUTCOME_MARKS[outcome]
    return shape, 10, 8, 4, style if outcome == "complete" else f"{style} faint"


def _name_beside(
    plot: Plot,
    x: float,
    y: float,
    best: StudyBest,
    own: bool,
    taken: list[tuple[float, float, float]],
) -> None:
    """The study's name right or left of its mark, unless it would cover another's."""
    name = best.name if len(best.name) <= 26 else best.name[:25] + "…"
    width, middle, height = len(name) * LETTER_WIDTH, plot.x.pixel(x), plot.y.pixel(y)
    to_left = middle + 10 + width > WIDTH
    start = middle - 10 - width if to_left else middle + 10
    if any(abs(height - h) < 13 and start < e and s < start + width for s, e, h in taken):
        return
    taken.append((start, start + width, height))
    style = "halo strong" if own else "halo label"
    at = middle - 10 if to_left else middle + 10
    plot.parts.append(text(at, height + 4, name, f"{style} end" if to_left else style))


def _has_loss(trial: TrialRecord) -> bool:
    return bool(comparable([trial]))


def _beyond(sizes: Sequence[float], edge: float) -> str:
    count = sum(size > edge for size in sizes)
    return f" {count} need more than {format_bytes(edge)}: at the right edge." if count else ""
