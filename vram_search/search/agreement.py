"""Compares Optuna's tables with our record, without writing anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DatabaseError

from vram_search.search.problem import Problem
from vram_search.search.recorded_trials import frozen_trial
from vram_search.store import TrialRecord
from vram_search.store.database import reading
from vram_search.store.faults import is_of_the_machine

_QUERY = """
SELECT studies.study_name, trials.number, trials.state, trial_values.value
FROM trials
JOIN studies ON studies.study_id = trials.study_id
LEFT JOIN trial_values ON trial_values.trial_id = trials.trial_id
"""
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class OptunaTrial:
    """State and value of a trial in Optuna's tables."""

    state: TrialState
    value: float | None


@dataclass(frozen=True)
class OptunaTables:
    """Everything that is compared of Optuna's tables.

    Attributes:
        trials: by the name of Optuna's study and the number of the trial.
        problem: why the installed Optuna cannot use the tables; empty if it can.
    """

    trials: dict[str, dict[int, OptunaTrial]]
    problem: str = ""


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


def read_optuna(engine: Engine) -> OptunaTables:
    """Reads Optuna's tables as they are stored.

    Raises:
        StoreError: the database cannot be read.
    """
    with reading(engine) as connection:
        if "trials" not in inspect(connection).get_table_names():
            return OptunaTables({}, "there are none")
        try:
            rows = connection.execute(text(_QUERY)).all()
            revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
        except DatabaseError as error:
            if is_of_the_machine(error):
                raise
            return OptunaTables({}, f"they cannot be read: {error.orig}")
    if revision != (head := _installed_revision()):
        by_version = f"they have revision {revision}, Optuna {optuna.__version__} expects {head}"
        return OptunaTables({}, by_version)
    trials: dict[str, dict[int, OptunaTrial]] = {}
    for name, number, state, value in rows:
        if state not in TrialState.__members__ or not isinstance(number, int):
            return OptunaTables({}, f"study {name} holds a trial {number} in state {state}")
        known = OptunaTrial(TrialState[state], value if isinstance(value, float | int) else None)
        trials.setdefault(name, {})[number] = known
    return OptunaTables(trials)


def _installed_revision() -> str:
    """The revision of the tables that the installed Optuna makes."""
    storage = RDBStorage("sqlite://")
    try:
        return str(storage.get_head_version())
    finally:
        storage.remove_session()
        storage.engine.dispose()


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
