"""One database, many processes: readers never wait, writers take turns, a crash loses nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.store.conftest import Start
from vram_search.errors import StoreError
from vram_search.store import (
    StepLoss,
    Store,
    StudyRecord,
    TrialResult,
    open_database,
    open_store,
    sqlite_url,
)
from vram_search.store.database import reading, writing


def test_database_keeps_a_write_ahead_log(store: Store, file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_new_database_waits_for_another_process_to_switch_it(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.execute, ["ROLLBACK"])
        release.start()
        assert open_store(sqlite_url(file), create=True).studies() == []
        release.join()


def test_every_connection_waits_and_holds_foreign_keys(store: Store) -> None:
    with reading(store.engine) as first, reading(store.engine) as second:
        for connection in (first, second):
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


READ_STUDIES = """
import sys
from vram_search.store import open_store
print([study.name for study in open_store(sys.argv[1], create=False).studies()])
"""


def test_readers_do_not_wait_for_a_writer(
    store: Store, file: Path, start_python: Start, writer: subprocess.Popen[str]
) -> None:
    readers = [start_python(READ_STUDIES, sqlite_url(file)) for _ in range(2)]
    # A reader that waited would do so for 30 s.
    assert [reader.communicate(timeout=15)[0] for reader in readers] == ["['demo']\n"] * 2
    assert [study.name for study in store.studies()] == ["demo"]
    assert writer.poll() is None


def test_locked_database_is_explained(
    store: Store, study: StudyRecord, file: Path, writer: subprocess.Popen[str]
) -> None:
    url = sqlite_url(file)
    impatient = Store(open_database(url, create=False, busy_seconds=0.1))
    with pytest.raises(StoreError, match="is locked: another process is writing") as caught:
        impatient.refresh_study(study.id, {})
    assert str(file) in caught.value.message
    assert "wait for that process" in caught.value.remedy
    with pytest.raises(StoreError, match="is locked"):
        open_database(url, create=True, busy_seconds=0.1)
    writer.communicate("done\n", timeout=15)
    impatient.refresh_study(study.id, {})


def test_writer_waits_for_its_turn(
    store: Store, study: StudyRecord, writer: subprocess.Popen[str], start_python: Start, file: Path
) -> None:
    touch = "import sys; from vram_search.store import open_store; print('up', flush=True); "
    touch += "open_store(sys.argv[1], create=False).refresh_study(1, {})"
    waiting = start_python(touch, sqlite_url(file))
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "up\n"
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=1)
    writer.communicate("done\n", timeout=15)
    assert waiting.wait(timeout=15) == 0
    assert store.studies()[0].updated_at > study.updated_at


def test_transaction_that_reads_before_it_writes_is_not_overtaken(
    store: Store, study: StudyRecord, file: Path
) -> None:
    with writing(store.engine) as connection:
        connection.exec_driver_sql("SELECT name FROM vs_studies").all()
        overtaking = sqlite3.connect(file, timeout=0)
        with closing(overtaking), pytest.raises(sqlite3.OperationalError, match="locked"):
            overtaking.execute("UPDATE vs_studies SET name = 'overtaken'")
        connection.exec_driver_sql("UPDATE vs_studies SET name = 'ours'")
    assert [study.name for study in store.studies()] == ["ours"]


OPEN_AND_RECORD = """
import sys
from vram_search.store import TrialResult, open_store
import alembic.command
print("up", flush=True)
sys.stdin.readline()
store = open_store(sys.argv[1], create=True)
study = store.create_study(sys.argv[2], {}, "d1", {}, {})
for number in range(20):
    store.finish_trial(store.start_trial(study.id, number, {}, 1, "d1"), TrialResult("oom"))
"""


def test_processes_that_start_at_once_share_a_new_database(file: Path, start_python: Start) -> None:
    processes = [start_python(OPEN_AND_RECORD, sqlite_url(file), name) for name in "abc"]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    store = open_store(sqlite_url(file), create=False)
    assert sorted(study.name for study in store.studies()) == ["a", "b", "c"]
    assert [store.outcome_counts(study.id)["oom"] for study in store.studies()] == [20] * 3


DIE_WHILE_WRITING = """
import os, signal, sys
from vram_search.store import open_store
from vram_search.store.database import writing
store = open_store(sys.argv[1], create=False)
with writing(store.engine) as connection:
    connection.exec_driver_sql("UPDATE vs_studies SET name = 'half'")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_process_killed_while_writing_leaves_no_trace(
    store: Store, study: StudyRecord, file: Path, start_python: Start
) -> None:
    assert start_python(DIE_WHILE_WRITING, sqlite_url(file)).wait(timeout=30) == -9
    assert store.studies() == [study]
    store.refresh_study(study.id, {})


def test_full_disk_is_explained_and_loses_nothing(store: Store, study: StudyRecord) -> None:
    trial_id = store.start_trial(study.id, 0, {}, seed=1, data_hash="d1")
    before = store.trial(study.id, 0)
    many = TrialResult("complete", step_losses=[StepLoss(step, 1.0) for step in range(50_000)])
    with reading(store.engine) as connection:
        # SQLite's own limit: what it raises is what it raises on a full disk.
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match="the disk is full") as caught:
        store.finish_trial(trial_id, many)
    assert "free some space" in caught.value.remedy
    assert store.trial(study.id, 0) == before
    assert store.step_losses(trial_id) == []
    store.finish_trial(trial_id, TrialResult("complete"))


def test_write_refused_by_a_read_only_connection_is_explained(
    store: Store, study: StudyRecord, file: Path
) -> None:
    with reading(store.engine) as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match="may not be written"):
        store.refresh_study(study.id, {})
    assert store.studies() == [study]


def test_damaged_database_is_explained(store: Store, study: StudyRecord, file: Path) -> None:
    store.close()
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        open_store(sqlite_url(file), create=False).studies()


def test_damage_that_sqlite_does_not_see_is_named_in_its_trial(
    store: Store, study: StudyRecord, file: Path
) -> None:
    """SQLite reads the lost bytes of a truncated file's last page as zeros."""
    marker = "the end of the file"
    store.start_trial(study.id, 0, {"optim": marker}, seed=1, data_hash="d1")
    store.close()
    content = file.read_bytes()
    file.write_bytes(content.replace(marker.encode(), b"\0" * len(marker)))
    (trial,) = open_store(sqlite_url(file), create=False).trials(study.id)
    assert trial.damaged == ("hyperparameters",)
    assert (trial.error or {})["message"] == "damaged in the database: hyperparameters"


LIST_MODULES = """
import sys
from vram_search.store import open_store
store = open_store(sys.argv[1], create=sys.argv[2] == "True")
store.top_trials(store.latest_study().id)
print(*{name.partition(".")[0] for name in sys.modules})
print(*(name for name in sys.modules if name.startswith("sqlalchemy.orm")))
"""


@pytest.mark.parametrize("create", [True, False])
def test_current_database_is_used_without_a_slow_library(
    store: Store, study: StudyRecord, file: Path, start_python: Start, create: bool
) -> None:
    out, error = start_python(LIST_MODULES, sqlite_url(file), create).communicate(timeout=60)
    packages, orm = out.split("\n")[:2]
    assert "sqlalchemy" in packages.split(), error
    assert {"alembic", "optuna", "torch", "pandas", "mako"}.isdisjoint(packages.split())
    assert orm == ""
