"""Further members of the kinds of fault in issue 17: values of all tables, numbers, servers."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.fuzz import seeds
from vram_search.errors import InputError, StoreError
from vram_search.resources import cache_folder, read_cached_json, write_cached_json
from vram_search.store import Store, open_store, sqlite_url
from vram_search.store import database as opening
from vram_search.store.events import events_after
from vram_search.store.location import StudyFolder
from vram_search.store.product_runs import product_runs_of
from vram_search.store.progress import progress_of
from vram_search.store.queue import STATES, StudyQueue
from vram_search.store.runs import latest_run
from vram_search.store.tables import metadata
from vram_search.store.untuned import recorded_samples, untuned_evaluation
from vram_search.store.workers import workers_of
from vram_search.units import parse_bytes
from vram_search.worker import gguf_base
from vram_search.worker.run_log import RunLog

READERS: dict[str, Callable[[Store], object]] = {
    "vs_runs": lambda store: latest_run(store, 1),
    "vs_workers": lambda store: workers_of(store.engine),
    "vs_untuned_models": lambda store: untuned_evaluation(store, 1),
    "vs_samples": lambda store: recorded_samples(store, 1),
    "vs_product_runs": lambda store: [run.example_loss_sums for run in product_runs_of(store, 1)],
    "vs_queue": lambda store: StudyQueue(store.engine).entries(STATES),
    "vs_progress": lambda store: progress_of(store.engine, 4),
    "vs_events": lambda store: events_after(store.engine, 0),
}
HOSTILE = ("text", b"\xff\x00", 1e308, "{", "[[1]]", '{"a": [null]}', "1" * 400, "0000-00-00")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeds.write_database(tmp_path_factory.mktemp("whole") / "whole.db")


@pytest.fixture
def database(whole: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copyfile(whole, tmp_path / "search.db"))


@pytest.mark.parametrize("table", READERS)
def test_damaged_value_of_any_table_is_left_out(database: Path, table: str) -> None:
    with closing(open_store(sqlite_url(database), create=False)) as store:
        keys = metadata.tables[table].primary_key.columns.keys()
        for number, column in enumerate(c for c in seeds.TABLES[table] if c not in keys):
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA ignore_check_constraints = ON")
                (before,) = connection.execute(f"SELECT {column} FROM {table}").fetchone()
                for value in (HOSTILE[number % len(HOSTILE)], HOSTILE[(number + 3) % len(HOSTILE)]):
                    connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
                    connection.commit()
                    READERS[table](store)
                connection.execute(f"UPDATE {table} SET {column} = ?", (before,))
                connection.commit()


def test_missing_part_of_a_studys_settings_is_one_message(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE vs_studies SET spec = '{\"training\": 5}'")
        connection.commit()
    with closing(open_store(sqlite_url(database), create=False)) as store:
        study = store.study("demo")
        assert study is not None
        for key in ("training", "search_space"):
            with pytest.raises(InputError, match=f"damaged: it holds no {key}"):
                study.spec[key]
        assert study.spec.get("training") is None


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + " GiB", "10000000 TiB"])
def test_size_that_is_too_large_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="too large"):
        parse_bytes(text)


def test_server_that_never_answers_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setattr(opening, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(StoreError, match="cannot be reached") as refused:
            open_store(f"postgresql+psycopg://me:hunter2@127.0.0.1:{port}/db", create=False)
    assert "check that the server runs" in refused.value.remedy
    assert "hunter2" not in str(refused.value)


def test_limit_of_the_url_is_kept() -> None:
    from sqlalchemy import make_url

    url = make_url("postgresql://host/db?connect_timeout=60")
    assert "connect_args" not in opening.server_arguments(url)


def test_leftovers_of_killed_conversions_are_removed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = cache_folder() / "models" / "other-12345678.4242.part"
    leftover.mkdir(parents=True)
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    monkeypatch.setattr(gguf_base, "_convert", lambda gguf, folder: folder.mkdir())
    gguf_base.converted_gguf(model, lambda text: None)
    assert not leftover.exists()


def test_cache_that_cannot_be_written_costs_only_time(home: Path) -> None:
    home.write_text("a file where the folder should be")
    write_cached_json(cache_folder() / "trees" / "a.json", {"a": 1})
    assert read_cached_json(cache_folder() / "trees" / "a.json") is None


def test_cache_keeps_no_leftover_of_a_killed_process(home: Path) -> None:
    file = cache_folder() / "trees" / "a.json"
    file.parent.mkdir(parents=True)
    file.with_suffix(".4242").write_text("{")
    write_cached_json(file, {"a": 1})
    assert [found.name for found in file.parent.iterdir()] == ["a.json"]


@pytest.mark.skipif(os.name == "nt", reason="an open folder cannot be moved there")
def test_log_goes_on_in_the_folder_of_its_name(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "demo").logs
    log = RunLog(folder)
    log.write("note", "before")
    shutil.rmtree(folder)
    log.write("note", "after")
    assert any("after" in file.read_text() for file in folder.iterdir())
