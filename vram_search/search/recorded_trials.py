"""Recorded trials as trials of an Optuna study: after a change of the space, or a lost table."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from vram_search.search.encoding import distributions, encode
from vram_search.search.memory_constraint import (
    DASHBOARD_CONSTRAINTS,
    MEMORY_CONSTRAINT,
    constraint_of,
)
from vram_search.search.observations import DIVERGED
from vram_search.search.problem import Problem
from vram_search.search.study_constraints import record_excess
from vram_search.search.user_attributes import user_attributes
from vram_search.spec import Hyperparameters
from vram_search.store import Evaluation, TrialRecord
from vram_search.store.skips import SKIPPED


def frozen_trial(
    record: TrialRecord | None, evaluations: Sequence[Evaluation], problem: Problem
) -> FrozenTrial:
    """A recorded trial for Optuna; a failed one, which teaches nothing, where it is not known
    (None), was lost, or lies outside the space.

    Args:
        evaluations: evaluations of the trial.
    """
    unknown: FrozenTrial = optuna.trial.create_trial(state=TrialState.FAIL)
    if record is None or record.outcome in (None, "lost"):
        return unknown
    hyperparameters = Hyperparameters.model_validate(record.hyperparameters)
    if not problem.space.contains(hyperparameters):
        return unknown
    assert record.outcome is not None
    complete = record.outcome == "complete" and record.value is not None
    own = record_excess(problem.constraints, record)
    constraint = constraint_of(record.outcome, (record.predicted or {}).get("excess", 0.0), own)
    marks = {DIVERGED: True} if record.outcome == "diverged" else {}
    if (record.error or {}).get(SKIPPED):
        marks[SKIPPED] = True
    trial: FrozenTrial = optuna.trial.create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        value=record.value if complete else None,
        params=encode(hyperparameters, problem.space),
        distributions=distributions(problem.space),
        user_attrs={**user_attributes(record), **marks},
        system_attrs={DASHBOARD_CONSTRAINTS: [constraint]},
        intermediate_values=_losses_by_rung(evaluations, hyperparameters, problem),
    )
    for name, share in {MEMORY_CONSTRAINT: constraint, **own}.items():
        trial.set_constraint(name, share)
    return trial


def _losses_by_rung(
    evaluations: Sequence[Evaluation], point: Hyperparameters, problem: Problem
) -> dict[int, float]:
    """Losses by the place of their rung; the end of a run is no rung."""
    return {
        problem.rung(one.fraction, point): value
        for one in evaluations
        if (value := problem.objective.value_of(one)) is not None
        and one.fraction < 1
        and problem.rungs
    }
