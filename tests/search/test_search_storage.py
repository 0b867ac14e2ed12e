"""Optuna's tables that Optuna itself refuses: the search continues from our record."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage, RDBStorage
from sqlalchemy import make_url

from tests.factories import make_point
from vram_search.errors import StoreError
from vram_search.search import STRATEGIES, Problem, Search, open_storage
from vram_search.search import storage as storage_module
from vram_search.search.optuna_tables import read_optuna
from vram_search.spec.search_space import SearchSpace
from vram_search.store import TrialResult, open_store, sqlite_url
from vram_search.worker.reconcile import contradiction_of


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


def file_of(url: str) -> str:
    return str(make_url(url).database)


def change(url: str, script: str) -> None:
    with closing(sqlite3.connect(file_of(url))) as connection:
        connection.executescript(script)


def dump(url: str) -> list[str]:
    with closing(sqlite3.connect(file_of(url))) as connection:
        return list(connection.iterdump())


DAMAGE = {
    "UPDATE alembic_version SET version_num = 'v99.0.0.a'": "they have revision v99.0.0.a",
    "UPDATE alembic_version SET version_num = 'v1.3.0.a'": "they have revision v1.3.0.a",
    "DELETE FROM alembic_version": "they have revision None",
    "DROP TABLE alembic_version": "table alembic_version is missing",
    "DROP TABLE trial_intermediate_values": "table trial_intermediate_values is missing",
    "DROP TABLE studies": "table studies is missing",
    "ALTER TABLE trials RENAME COLUMN state TO old_state": "table trials lacks column state",
    "UPDATE trials SET state = 'NONSENSE'": "trial 0 in state NONSENSE",
    "UPDATE trials SET number = NULL": "trial None in state COMPLETE",
    "UPDATE trials SET datetime_start = 'x'": "table trials holds the time 'x'",
    "UPDATE trial_values SET value = 'x'": "has the value 'x'",
    "UPDATE trial_params SET param_value = 'x'": "holds param_value 'x'",
    "UPDATE trial_params SET distribution_json = '{'": "holds distribution_json '{'",
    "UPDATE study_system_attributes SET value_json = '{'": "holds value_json '{'",
    "UPDATE study_directions SET direction = 'UP'": "has the direction 'UP'",
    "UPDATE study_directions SET direction = 'MAXIMIZE'": "another study of the name demo",
    "DELETE FROM study_directions": "another study of the name demo",
    "INSERT INTO study_directions (direction, study_id, objective) VALUES ('MINIMIZE', 1, 1)": (
        "another study of the name demo"
    ),
    "UPDATE trial_values SET value = 7": "contradict the record in 1 trial, the first is trial 0",
    "UPDATE trials SET state = 'PRUNED'": "contradict the record in 1 trial, the first is trial 0",
}


@pytest.mark.parametrize("statement", DAMAGE)
def test_search_continues_from_the_record(
    url: str, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "SETTLE_SECONDS", 0.0)
    change(url, f"PRAGMA foreign_keys = OFF; {statement}")
    before = dump(url)
    notes: list[str] = []
    problem = Problem(SearchSpace())
    with closing(open_store(url, create=False)) as store:
        (study,) = store.studies()
        contradiction = partial(contradiction_of, store, study, problem)
        with open_storage(url, "demo", notes.append, contradiction) as storage:
            assert isinstance(storage, InMemoryStorage)
            search = Search(storage, "demo", 1, problem, STRATEGIES["tpe"], 1)
            search.learn(store.trials(study.id), store.evaluations)
            assert search.ask().number == 1
    assert DAMAGE[statement] in notes[0]
    assert dump(url) == before, "tables that cannot be used stay as they are"


def test_search_in_memory_draws_no_point_of_the_record_again(url: str) -> None:
    problem = Problem(SearchSpace())

    def draw(search: Search) -> list[float]:
        return [search.ask().hyperparameters.learning_rate for _ in range(3)]

    first = Search(InMemoryStorage(), "demo", 1, problem, STRATEGIES["random"], 1)
    again = Search(InMemoryStorage(), "demo", 1, problem, STRATEGIES["random"], 1)
    with closing(open_store(url, create=False)) as store:
        again.learn(store.trials(1))
    assert not set(draw(first)) & set(draw(again))


@pytest.mark.parametrize(
    "unfinished",
    [
        "DROP TABLE alembic_version",
        "DELETE FROM alembic_version",
        "DROP TABLE alembic_version; DROP TABLE trials; DROP TABLE version_info",
    ],
)
def test_tables_of_a_process_that_was_killed_while_it_created_them_are_completed(
    tmp_path: Path, unfinished: str
) -> None:
    made = sqlite_url(tmp_path / "search.db")
    with closing(open_store(made, create=True)), open_storage(made):
        pass
    change(made, f"PRAGMA foreign_keys = OFF; {unfinished}")
    notes: list[str] = []
    with open_storage(made, "demo", notes.append) as storage:
        assert isinstance(storage, RDBStorage)
        Search(storage, "demo", 1, Problem(SearchSpace()), STRATEGIES["random"], 1).ask()
    assert notes == []
    with closing(open_store(made, create=False)) as store:
        assert read_optuna(store.engine).problem == ""


def test_index_that_a_killed_process_left_out_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it each run would add its study again."""
    monkeypatch.setattr(storage_module, "SETTLE_SECONDS", 0.0)
    url = sqlite_url(tmp_path / "search.db")
    with closing(open_store(url, create=True)), open_storage(url):
        pass
    with closing(sqlite3.connect(tmp_path / "search.db")) as connection:
        connection.execute("DROP INDEX ix_studies_study_name")
        connection.commit()
    for _ in range(3):
        with open_storage(url) as storage:
            assert isinstance(storage, RDBStorage)
            optuna.create_study(study_name="demo", storage=storage, load_if_exists=True)
            assert optuna.get_all_study_names(storage) == ["demo"]


def test_contradiction_of_a_moment_is_waited_for(url: str) -> None:
    said = ["a trial that another worker reports now"]
    with open_storage(url, "demo", contradiction=lambda tables: said.pop() if said else "") as it:
        assert isinstance(it, RDBStorage)


def test_own_tables_are_used_where_optuna_accepts_them(url: str) -> None:
    notes: list[str] = []
    with open_storage(url, "demo", notes.append) as storage:
        assert isinstance(storage, RDBStorage)
    assert notes == []


def test_disk_that_fails_is_not_taken_for_another_version(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StoreError), open_storage(sqlite_url(tmp_path / "folder.db"), "demo"):
        pass
