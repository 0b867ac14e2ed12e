"""Compares Optuna's tables with our record, without writing anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from vram_search.search.optuna_tables import OptunaTables, OptunaTrial
from vram_search.search.problem import Problem
from vram_search.search.recorded_trials import frozen_trial
from vram_search.store import TrialRecord

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Disagreement:
    """A trial of which the record and Optuna's tables differ.

    Attributes:
        is_pending: the run was killed between the record and the report to Optuna; the next run
            reports it.
    """

    number: int
    recorded: str
    in_optuna: str
    is_pending: bool


def contradictions(
    records: Sequence[TrialRecord], tables: OptunaTables, name: str, problem: Problem
) -> list[Disagreement]:
    """The differences that the start of a run does not correct: pending ones are reported then,
    and trials that are missing at the end are added (`Search.learn`).

    Args:
        name: of Optuna's study.
    """
    stored = tables.trials.get(name, {})
    return [
        one
        for one in disagreements(records, stored, problem)
        if not one.is_pending and one.number < len(stored)
    ]


def disagreements(
    records: Sequence[TrialRecord], stored: dict[int, OptunaTrial], problem: Problem
) -> list[Disagreement]:
    """Compares the trials of a study, in number order.

    Damaged trials are left out: the record does not say how they ended.

    Args:
        stored: the trials of the study's latest revision in Optuna's tables.
    """
    found = []
    for record in records:
        if record.damaged:
            continue
        there, recorded = stored.get(record.number), record.outcome or "running"
        if there is None:
            found.append(Disagreement(record.number, recorded, "missing", False))
        elif record.outcome is None and there.state in (*_FINISHED, TrialState.FAIL):
            found.append(Disagreement(record.number, recorded, there.state.name, False))
        elif record.outcome is not None and there.state == TrialState.RUNNING:
            found.append(Disagreement(record.number, recorded, there.state.name, True))
        elif record.outcome is not None and not _agrees(record, there, problem):
            said = there.state.name + ("" if there.value is None else f" {there.value:.6g}")
            loss = "" if record.value is None else f" {record.value:.6g}"
            found.append(Disagreement(record.number, recorded + loss, said, False))
    known = {record.number for record in records}
    found += [
        Disagreement(number, "not recorded", trial.state.name, trial.state == TrialState.RUNNING)
        for number, trial in stored.items()
        if number not in known and trial.state in (*_FINISHED, TrialState.RUNNING)
    ]
    return sorted(found, key=lambda one: one.number)


def _agrees(record: TrialRecord, there: OptunaTrial, problem: Problem) -> bool:
    try:
        expected: FrozenTrial = frozen_trial(record, (), problem)
    except (ValidationError, ValueError):
        return True  # hyperparameters of another version
    if there.state != expected.state:
        # Before the space changed, a trial outside it was reported as it ended.
        was_in_space = expected.state == TrialState.FAIL and record.outcome != "lost"
        return was_in_space and there.state in _FINISHED
    if expected.state != TrialState.COMPLETE:
        return True
    value = expected.value
    return there.value is not None and value is not None and math.isclose(there.value, value)
