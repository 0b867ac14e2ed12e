"""The planner's margin, learnt from the trials that this card has measured for the study.

It is built from the record each time, so a study that is continued goes on with the margin it had.
"""

from __future__ import annotations

from collections.abc import Iterable

from vram_search.estimate.margin import margin_for
from vram_search.spec import ModelShape
from vram_search.store import Outcome, TrialRecord, TrialResult

WHOLE_PEAK: tuple[Outcome, ...] = ("complete", "pruned")
"""Outcomes of trials that passed the probe, whose peak bounds the whole training's."""
LIMIT_SHARE = 0.9
"""An out-of-memory with less of the budget taken says nothing of the prediction: somebody else held
the rest."""


def learnt_margin(shape: ModelShape, trials: Iterable[TrialRecord], device: str) -> float:
    """Share by which predicted required bytes are raised before they are compared with a budget.

    The conformal margin on measured / predicted allocated bytes (`margin_for`), and at least what
    rules out every plan that met its limit on this card (`required_ratio_above`).

    Args:
        trials: of one study, in any order and of any outcome.
        device: the card's name as the trials record it; what other devices measured is left out.
    """
    here = [trial for trial in trials if trial.device == device and trial.measured]
    ratios = [ratio for trial in here if (ratio := _ratio(trial)) is not None]
    floors: list[float] = [
        (trial.measured or {}).get("required_ratio_above", 0.0) - 1 for trial in here
    ]
    return max([margin_for(shape, ratios), *floors])


def required_ratio_above(
    result: TrialResult, required_bytes: int, budget_bytes: int
) -> float | None:
    """A bound on measured / predicted required bytes: one byte more than the limit that was met.

    Args:
        result: of a training that ran out of memory.
        required_bytes: predicted for it.

    Returns:
        None where nothing was measured, or memory ran out well below the budget (`LIMIT_SHARE`).
    """
    taken = (result.measured or {}).get("reserved_bytes")
    if taken is None:
        return None
    wanted = taken + ((result.error or {}).get("requested_bytes") or 0)
    return (budget_bytes + 1) / required_bytes if wanted >= LIMIT_SHARE * budget_bytes else None


def _ratio(trial: TrialRecord) -> float | None:
    predicted = (trial.predicted or {}).get("allocated_bytes")
    measured = (trial.measured or {}).get("allocated_bytes")
    return measured / predicted if trial.outcome in WHOLE_PEAK and predicted and measured else None
