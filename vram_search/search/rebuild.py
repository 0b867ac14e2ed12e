"""Removes Optuna's tables or one of its studies; `Search.learn` fills them from the record."""

from __future__ import annotations

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine, inspect, text

from vram_search.search.strategy import RETRY_OF
from vram_search.store.database import optuna_tables, writing

_DROPPED_LAST = "trials studies"
"""Tables that others refer to, in the order in which they are dropped after them."""


def drop_optuna_tables(engine: Engine) -> None:
    """Drops all of Optuna's tables. Points that waited in them are lost."""
    with writing(engine) as connection:
        names = optuna_tables(set(inspect(connection).get_table_names()))
        for name in sorted(names, key=_DROPPED_LAST.find):
            connection.execute(text(f'DROP TABLE "{name}"'))


def forget_study(storage: BaseStorage, name: str) -> list[FrozenTrial]:
    """Deletes one of Optuna's studies and returns the points that a person had added to it.

    Repetitions of lost trials are not among them: the record knows which trials to repeat.
    """
    if name not in optuna.get_all_study_names(storage):
        return []
    study_id = storage.get_study_id_from_name(name)
    waiting = storage.get_all_trials(study_id, states=(TrialState.WAITING,))
    storage.delete_study(study_id)
    return [trial for trial in waiting if RETRY_OF not in trial.user_attrs]


def enqueue_points(storage: BaseStorage, name: str, points: list[FrozenTrial]) -> None:
    """Puts points that `forget_study` returned into a study again."""
    study = optuna.load_study(study_name=name, storage=storage)
    for point in points:
        study.enqueue_trial(point.system_attrs["fixed_params"], user_attrs=point.user_attrs)
