"""Charts of one trial, also while it runs: its parts on the card, and its losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vram_search.report.page.byte_charts import parts_chart
from vram_search.report.page.curve_charts import thinned
from vram_search.report.page.scales import linear
from vram_search.report.page.svg import Chart, Plot, plot_area
from vram_search.store import StepLoss
from vram_search.units import counted

Points = Sequence[tuple[int, float | None]]


def card_chart(
    number: int,
    parts: Mapping[str, int | None],
    limit: int | None,
    process_bytes: int | None,
) -> Chart:
    """Predicted bytes of a running trial by part, and the bytes in use, against the whole card.

    Args:
        limit: bytes of the card less its reserve; None if unknown.
        process_bytes: of the training process, as NVML reads them; None if not available.
    """
    title = "The card"
    known = {name: int(size) for name, size in parts.items() if size and size > 0}
    if not known:
        return Chart("card", title, "", 0, "", "The trial's bytes are not planned yet.")
    bars = [(f"trial {number}, predicted", known)]
    if process_bytes:
        bars.append(("in use, measured", {"process": process_bytes}))
    return parts_chart("card", title, bars, limit, "", far=math.inf)


def live_curve_chart(
    number: int,
    losses: Points,
    evaluations: Points,
    steps_total: int,
    best: Sequence[StepLoss],
) -> Chart:
    """Training loss of a trial step by step, its evaluations, and the best trial's losses.

    Args:
        best: training losses of the best trial; empty if no trial is complete.
    """
    title = f"Losses of trial {number}"
    own = thinned([StepLoss(step, loss) for step, loss in losses])
    marks = [(step, loss) for step, loss in evaluations if loss is not None]
    if not own and not marks:
        return Chart("live", title, "", 0, "", "No loss is reported yet.")
    others = thinned(best)
    values = sorted(loss for _, loss in (*own, *others, *marks))
    top = max(values[int(0.98 * (len(values) - 1))], values[0] + 1e-6)
    across, up = plot_area(260)
    end = max(steps_total, *(int(step) for step, _ in (*own, *others, *marks)))
    plot = Plot(linear([0, end], *across, pad=0.02), linear([values[0], top], *up), 260)
    plot.axes("optimizer step", "loss")
    if len(others) > 1:
        plot.curve(others, "curve s7 dashed", "training loss of the best trial")
    if len(own) > 1:
        plot.curve(own, "curve bold s0", f"training loss of trial {number}")
    for step, loss in marks:
        plot.mark("diamond", step, loss, "f1", f"eval_loss {loss:.4f} at step {step}", 5)
    legend = [("<path d='M2 8L18 8' class='curve bold s0'/>", "training loss")]
    if marks:
        legend.append(("<path d='M4 8L10 3L16 8L10 13Z' class='f1'/>", "eval_loss"))
    if len(others) > 1:
        legend.append(("<path d='M2 8L18 8' class='curve s7 dashed'/>", "the best trial"))
    points = counted(len(own), "point", "points")
    return Chart("live", title, f"{points}.", 260, plot.body, "", legend)
