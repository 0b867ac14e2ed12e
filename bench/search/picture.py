"""Best loss against GPU hours, median and quartiles over the seeds, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from bench.search.metrics import Incumbent, Result, quartiles
from bench.search.nights import TaskResults
from bench.search.strategies import OURS
from vram_search.report.page.scales import linear, logarithmic
from vram_search.report.page.svg import Chart, Plot, plot_area

POINTS = 80
HEIGHT = 360
HOUR = 3600.0
TOP_SHARE = 0.06
"""Losses further above the best are cut off, unless a strategy is no better after a quarter of the
night: the beginning would hide the rest."""
LOG_FROM = 2.0
"""Times the best loss at the top of the picture, from which its scale is logarithmic."""


def curves(results: TaskResults) -> Chart:
    """One task, a colour each strategy: thick the median, ours the thickest, thin the quartiles."""
    setting = results.setting
    best = setting.table.best(setting.limit_bytes).loss()
    first = min(
        (night.incumbents[0].seconds for nights in results.results.values() for night in nights
         if night.incumbents),
        default=setting.night / 100,
    )  # fmt: skip
    moments = _moments(first, setting.night)
    across, up = plot_area(HEIGHT)
    hours = logarithmic([moment / HOUR for moment in moments], *across)
    quarter = [_spread(nights, setting.night / 4)[1] for nights in results.results.values()]
    top = max([best * (1 + TOP_SHARE), *(loss for loss in quarter if loss < math.inf)])
    scale = logarithmic if top > LOG_FROM * best else linear
    plot = Plot(hours, scale([best, top], *up), HEIGHT)
    plot.axes("GPU hours", "eval_loss of the best trial so far")
    legend = []
    for place, (name, nights) in enumerate(results.results.items()):
        style, main = f"curve s{place % 10}", " main" if name == OURS else ""
        low, middle, high = zip(*(_spread(nights, moment) for moment in moments), strict=True)
        for losses, thickness in ((low, " many"), (high, " many"), (middle, main)):
            if points := _steps(moments, losses, top):
                plot.curve(points, style + thickness)
        legend.append((f"<path d='M2 8L18 8' class='{style}{main}'/>", name))
    seeds = len(next(iter(results.results.values())))
    return Chart(
        f"search-{setting.table.task}",
        f"{setting.table.task}: best loss against GPU hours",
        f"Median (thick) and quartiles (thin) of {seeds} replayed nights.",
        HEIGHT,
        plot.body,
        legend=legend,
    )


def _moments(first: float, last: float) -> list[float]:
    step = math.log(last / first) / (POINTS - 1)
    return [first * math.exp(step * place) for place in range(POINTS)]


def _spread(nights: Sequence[Result], moment: float) -> tuple[float, float, float]:
    return quartiles(loss_at(night.incumbents, moment) for night in nights)


def loss_at(incumbents: Sequence[Incumbent], moment: float) -> float:
    """True loss of the incumbent at a moment; infinite before the first."""
    losses = [one.loss for one in incumbents if one.seconds <= moment]
    return losses[-1] if losses else math.inf


def _steps(
    moments: Sequence[float], losses: Sequence[float], top: float
) -> list[tuple[float, float]]:
    """A staircase in hours, from where the losses are in the picture on."""
    known = [(m / HOUR, loss) for m, loss in zip(moments, losses, strict=True) if loss <= top]
    corners = [corner for (_, a), (x, b) in pairwise(known) for corner in ((x, a), (x, b))]
    return known[:1] + corners
