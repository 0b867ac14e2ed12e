"""Selects the hyperparameters that a table of trials shows. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from vram_search.report.trial_fields import TrialFields
from vram_search.spec.hyperparameters import BY_NAME, MAIN, OTHERS, Dimension


def shown_dimensions(trials: Iterable[TrialFields]) -> tuple[Dimension, ...]:
    """Returns the columns of every table, and those in which these trials differ."""
    known = list(trials)
    return (*MAIN, *(dimension for dimension in OTHERS if is_varied(dimension, known)))


def is_varied(dimension: Dimension, trials: Iterable[TrialFields]) -> bool:
    """True if trials differ in a hyperparameter. One that follows another is varied only if it has
    several values for one value of the other."""
    leader = BY_NAME[dimension.follows] if dimension.follows else None
    pairs = {
        (
            leader.value_in(trial.hyperparameters) if leader else None,
            str(dimension.value_in(trial.hyperparameters)),
        )
        for trial in trials
    }
    return len(pairs) > len({leading for leading, _ in pairs})
