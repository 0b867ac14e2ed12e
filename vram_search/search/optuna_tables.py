"""Reads Optuna's tables as they are stored, without writing anything, and finds their faults.

Optuna would create a table that is missing, and then fail at the rows of the others.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import optuna
from optuna.distributions import json_to_distribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DatabaseError

from vram_search.store.database import optuna_tables, reading
from vram_search.store.faults import is_of_the_machine

_TRIALS = """
SELECT studies.study_name, trials.number, trials.state, trial_values.value
FROM trials
JOIN studies ON studies.study_id = trials.study_id
LEFT JOIN trial_values ON trial_values.trial_id = trials.trial_id
"""
_DIRECTIONS = """
SELECT studies.study_name, study_directions.direction
FROM studies
LEFT JOIN study_directions ON study_directions.study_id = studies.study_id
"""
_JSON = {
    "trial_user_attributes": "value_json",
    "trial_system_attributes": "value_json",
    "study_user_attributes": "value_json",
    "study_system_attributes": "value_json",
}
_OF_OUR_SEARCHES = ["MINIMIZE"]


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
        is_empty: True if no table holds a study or a trial.
        foreign: names of studies that do not minimise one value, so they are not ours.
    """

    trials: dict[str, dict[int, OptunaTrial]]
    problem: str = ""
    is_empty: bool = False
    foreign: frozenset[str] = frozenset()


class _UnusableError(Exception):
    """The tables are not as the installed Optuna makes them; the message says how."""


def read_optuna(engine: Engine) -> OptunaTables:
    """Reads Optuna's tables as they are stored.

    Raises:
        StoreError: the database cannot be read.
    """
    with reading(engine) as connection:
        names = optuna_tables(set(inspect(connection).get_table_names()))
        if not names:
            return OptunaTables({}, "there are none", is_empty=True)
        held = names & {"studies", "trials"}
        is_empty = not any(connection.scalar(text(f"SELECT 1 FROM {name}")) for name in held)
        try:
            _check_version(connection, names)
            _check_values(connection)
            return OptunaTables(_trials(connection), "", is_empty, _foreign(connection))
        except _UnusableError as error:
            return OptunaTables({}, str(error), is_empty)
        except DatabaseError as error:
            if is_of_the_machine(error):
                raise
            return OptunaTables({}, f"they cannot be read: {error.orig}", is_empty)


def _check_version(connection: Connection, names: set[str]) -> None:
    head, columns = _installed()
    if "alembic_version" not in names:
        raise _UnusableError("table alembic_version is missing")
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if revision != head:
        raise _UnusableError(
            f"they have revision {revision}, Optuna {optuna.__version__} expects {head}"
        )
    for table, expected in columns.items():
        if table not in names:
            raise _UnusableError(f"table {table} is missing")
        there = {column["name"] for column in inspect(connection).get_columns(table)}
        if missing := sorted(expected - there):
            raise _UnusableError(f"table {table} lacks column {missing[0]}")


@cache
def _installed() -> tuple[str, Mapping[str, set[str]]]:
    """Revision, tables and their columns of the installed Optuna."""
    storage = RDBStorage("sqlite://")
    try:
        there = inspect(storage.engine)
        tables = {
            name: {str(column["name"]) for column in there.get_columns(name)}
            for name in there.get_table_names()
        }
        return str(storage.get_head_version()), tables
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _check_values(connection: Connection) -> None:
    """Refuses values that Optuna fails at. SQLite keeps any value in any column."""
    for table, column in _JSON.items():
        for value in connection.scalars(text(f"SELECT {column} FROM {table}")):
            _check(json.loads, value, f"table {table} holds {column}")
    params = text("SELECT DISTINCT distribution_json FROM trial_params")
    for distribution in connection.scalars(params):
        _check(json_to_distribution, distribution, "table trial_params holds distribution_json")
    for value in connection.scalars(text("SELECT param_value FROM trial_params")):
        _check(float, value, "table trial_params holds param_value")
    for row in connection.execute(text("SELECT datetime_start, datetime_complete FROM trials")):
        for moment in row:
            if isinstance(moment, str):  # of SQLite
                _check(datetime.fromisoformat, moment, "table trials holds the time")


def _check(read: Any, value: Any, where: str) -> None:
    try:
        read(value)
    except Exception:
        raise _UnusableError(f"{where} {str(value)[:40]!r}") from None


def _trials(connection: Connection) -> dict[str, dict[int, OptunaTrial]]:
    trials: dict[str, dict[int, OptunaTrial]] = defaultdict(dict)
    for name, number, state, value in connection.execute(text(_TRIALS)):
        if state not in TrialState.__members__ or not isinstance(number, int):
            raise _UnusableError(f"study {name} holds a trial {number} in state {state}")
        if value is not None and not isinstance(value, float | int):
            raise _UnusableError(f"trial {number} of study {name} has the value {value!r}")
        trials[name][number] = OptunaTrial(TrialState[state], value)
    return dict(trials)


def _foreign(connection: Connection) -> frozenset[str]:
    directions: dict[str, list[str]] = defaultdict(list)
    for name, direction in connection.execute(text(_DIRECTIONS)):
        if direction is not None and direction not in StudyDirection.__members__:
            raise _UnusableError(f"study {name} has the direction {direction!r}")
        directions[name] += [] if direction is None else [direction]
    return frozenset(name for name, found in directions.items() if found != _OF_OUR_SEARCHES)
