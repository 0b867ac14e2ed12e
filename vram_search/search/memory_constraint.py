"""The memory budget as a constraint of Optuna: by which share a trial misses it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import optuna

from vram_search.store import Outcome

MEMORY_CONSTRAINT = "required_bytes over budget"
"""Set on every trial: by which share it misses the budget; feasible up to 0."""
DASHBOARD_CONSTRAINTS = "constraints"
"""System attribute of the same figure in a list: Optuna's older form, and the only one that
optuna-dashboard 0.21 reads (_serializer.py, CONSTRAINTS_KEY). Optuna names its entry "0"."""
OOM_EXCESS = 0.01
"""The excess of a trial that was predicted to fit and did not."""


def constraint_of(outcome: Outcome, excess: float, own: Mapping[str, float] | None = None) -> float:
    """The constraint's value; > 0 where the trial did not fit.

    Args:
        excess: share by which the trial was predicted to miss the budget; <= 0 where it fits.
        own: shares by which it breaks the study's own constraints. An infeasible trial that breaks
            one may fit the card.
    """
    is_for_own = (
        outcome == "infeasible" and excess <= 0 and any(x > 0 for x in (own or {}).values())
    )
    if outcome in ("oom", "infeasible") and not is_for_own:
        return max(excess, OOM_EXCESS)
    return min(excess, 0.0) if math.isfinite(excess) else 0.0


def set_memory_constraint(trial: optuna.Trial, value: float) -> None:
    """Sets the constraint in both of Optuna's forms, once."""
    if MEMORY_CONSTRAINT in trial.constraints:
        return
    trial.storage.set_trial_system_attr(trial._trial_id, DASHBOARD_CONSTRAINTS, [value])
    trial.set_constraint(MEMORY_CONSTRAINT, value)
