"""Learns the planner's margin from the trials that this card has measured for the study.

The margin is computed from the record each time, so a continued study keeps the margin it had.
"""

from __future__ import annotations

from collections.abc import Iterable

from vram_search.estimate.margin import margin_for
from vram_search.spec import ModelShape
from vram_search.store import Outcome, TrialRecord, TrialResult

WHOLE_PEAK: tuple[Outcome, ...] = ("complete", "pruned")
"""Outcomes of trials that passed the probe; the probe's peak bounds the whole training's."""
LIMIT_SHARE = 0.9
"""Share of the budget below which an out-of-memory does not count against the prediction, because
another program held the rest."""


def learnt_margin(shape: ModelShape, trials: Iterable[TrialRecord], device: str) -> float:
    """Returns the share by which predicted required bytes are raised before the comparison with a
    budget.

    It is the conformal margin on measured / predicted allocated bytes (`margin_for`), but at least
    large enough to rule out every plan that met its limit on this card (`required_ratio_above`).

    Args:
        trials: trials of one study, in any order and with any outcome.
        device: the card's name as the trials record it; trials of other devices are left out.
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
    """Returns a bound on measured / predicted required bytes: one byte above the limit it met.

    Args:
        result: the result of a training that ran out of memory.
        required_bytes: bytes predicted for that training.

    Returns:
        None if nothing was measured, or memory ran out well below the budget (`LIMIT_SHARE`).
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
