"""Optuna's tables that Optuna itself refuses: the search continues from our record."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage, RDBStorage
from sqlalchemy import text

from tests.factories import make_point
from vram_search.errors import StoreError
from vram_search.search import STRATEGIES, Problem, Search, open_storage
from vram_search.spec.search_space import SearchSpace
from vram_search.store import TrialResult, open_store, sqlite_url


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with one finished trial, in our tables and in Optuna's."""
    made = sqlite_url(tmp_path / "search.db")
    with closing(open_store(made, create=True)) as store, open_storage(made) as storage:
        study = store.create_study("demo", {}, "d1", {}, {})
        search = Search(storage, "demo", 1, Problem(SearchSpace()), STRATEGIES["tpe"], 1)
        number = search.ask().number
        point = make_point().model_dump(mode="json")
        trial_id = store.start_trial(study.id, number, point, seed=1, data_hash="d1")
        store.finish_trial(trial_id, TrialResult("complete", eval_loss=1.0))
        search.tell(number, "complete", 1.0, 0.0)
    return made


def change(url: str, statement: str) -> None:
    with closing(open_store(url, create=True)) as store, store.engine.begin() as connection:
        connection.execute(text(statement))


DAMAGE = (
    "UPDATE alembic_version SET version_num = 'v99.0.0.a'",
    "ALTER TABLE trials RENAME COLUMN state TO old_state",
    "UPDATE trials SET state = 'NONSENSE'",
)


@pytest.mark.parametrize("statement", DAMAGE)
def test_search_continues_from_the_record(url: str, statement: str) -> None:
    change(url, statement)
    notes: list[str] = []
    with open_storage(url, "demo", notes.append) as storage:
        assert isinstance(storage, InMemoryStorage)
        search = Search(storage, "demo", 1, Problem(SearchSpace()), STRATEGIES["tpe"], 1)
        with closing(open_store(url, create=False)) as store:
            search.learn(store.trials(1), store.evaluations)
        assert search.ask().number == 1
    assert notes[0].startswith("Optuna's tables in the database were written by another version")


def test_own_tables_are_used_where_optuna_accepts_them(url: str) -> None:
    notes: list[str] = []
    with open_storage(url, "demo", notes.append) as storage:
        assert isinstance(storage, RDBStorage)
    assert notes == []


def test_disk_that_fails_is_not_taken_for_another_version(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StoreError), open_storage(sqlite_url(tmp_path / "folder.db"), "demo"):
        pass
