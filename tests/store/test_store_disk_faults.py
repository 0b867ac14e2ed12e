"""The file of an open database vanishes, its disk is full or read-only, or it has two names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.factories import NEWER_COLUMNS, NEWER_EVALUATION_COLUMNS, NEWER_TABLES
from vram_search.cli.main import main
from vram_search.errors import InputError, StoreError
from vram_search.store import Store, TrialResult, open_store, sqlite_url
from vram_search.store.database import open_database, reading
from vram_search.store.queue import StudyQueue
from vram_search.store.read_only import connect_without_writing
from vram_search.worker.lock_file import lock_is_held


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(sqlite_url(tmp_path / "search.db"), create=True)) as opened:
        study = opened.create_study("demo", {}, "d1", {}, {"name": "m"})
        trial_id = opened.start_trial(study.id, 0, {}, seed=1, data_hash="d1")
        opened.finish_trial(trial_id, TrialResult("complete", eval_loss=1.0))
        yield opened


def test_record_is_refused_after_the_database_was_deleted(store: Store, tmp_path: Path) -> None:
    (tmp_path / "search.db").unlink()
    with pytest.raises(StoreError, match="was deleted or moved while it was in use"):
        store.start_trial(1, 1, {}, seed=1, data_hash="d1")
    assert not (tmp_path / "search.db").exists()


def test_record_is_refused_after_the_database_was_replaced(store: Store, tmp_path: Path) -> None:
    with closing(open_store(sqlite_url(tmp_path / "other.db"), create=True)) as other:
        other.create_study("demo", {}, "d1", {}, {})
    (tmp_path / "other.db").replace(tmp_path / "search.db")
    with pytest.raises(StoreError, match="was replaced by another file"):
        store.start_trial(1, 1, {}, seed=1, data_hash="d1")


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be deleted there")
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_record_is_refused_after_the_log_was_deleted_and_nothing_is_lost(
    store: Store, tmp_path: Path, suffix: str
) -> None:
    first = store.start_trial(1, 1, {}, seed=1, data_hash="d1")
    (tmp_path / f"search.db{suffix}").unlink()
    with pytest.raises(StoreError, match=f"search.db{suffix} was deleted"):
        store.start_trial(1, 2, {}, seed=1, data_hash="d1")
    store.close()
    with closing(open_store(sqlite_url(tmp_path / "search.db"), create=False)) as again:
        assert first in [trial.id for trial in again.trials(1)]


def test_number_that_no_database_can_hold_is_one_message(store: Store) -> None:
    with pytest.raises(InputError, match="too large"):
        StudyQueue(store.engine).entry(10**30)
    with pytest.raises(InputError, match="surrogates"):
        store.study("\udcff")


@pytest.mark.skipif(not hasattr(os, "link"), reason="no hard links")
def test_database_with_two_names_is_refused(store: Store, tmp_path: Path) -> None:
    store.close()
    os.link(tmp_path / "search.db", tmp_path / "second.db")
    with pytest.raises(StoreError, match="has another name, too"):
        open_store(sqlite_url(tmp_path / "second.db"), create=True)
    open_store(sqlite_url(tmp_path / "second.db"), create=False).close()


@pytest.mark.skipif(sys.platform != "linux", reason="bind mounts")
@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes there")
def test_named_pipe_is_no_database(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.db")
    for create in (True, False):
        with pytest.raises(StoreError, match=r"pipe\.db is not a regular file"):
            open_store(sqlite_url(tmp_path / "pipe.db"), create=create)


def test_database_that_is_mounted_as_a_single_file_is_refused(store: Store, tmp_path: Path) -> None:
    store.close()
    there = tmp_path / "a folder" / "search.db"
    there.parent.mkdir()
    there.touch()
    mount = ["mount", "--bind", str(tmp_path / "search.db"), str(there)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        with pytest.raises(StoreError, match="is mounted as a single file"):
            open_store(sqlite_url(there), create=True)
        open_store(sqlite_url(there), create=False).close()
    finally:
        subprocess.run(["umount", str(there)], check=True)
    open_store(sqlite_url(tmp_path / "search.db"), create=True).close()


def run_without_room(database: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that may write no byte to a file; its output goes through a pipe."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "from vram_search.cli.main import main\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-B", "-c", code, *arguments, "--database", str(database)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_results_are_read_on_a_full_disk(store: Store, tmp_path: Path) -> None:
    store.close()
    database = tmp_path / "search.db"
    for leftover in ("-shm", "-wal"):
        Path(f"{database}{leftover}").unlink(missing_ok=True)
    done = run_without_room(database, "top", "--json")
    assert done.returncode == 0, done.stderr
    assert '"eval_loss": 1.0' in done.stdout


def test_transactions_in_the_log_are_read_without_writing(store: Store, tmp_path: Path) -> None:
    """The process was killed: its last trials are in the log alone."""
    database = tmp_path / "search.db"
    killed = tmp_path / "killed"
    killed.mkdir()
    for suffix in ("", "-wal"):
        (killed / f"search.db{suffix}").write_bytes(Path(f"{database}{suffix}").read_bytes())
    with closing(connect_without_writing(killed / "search.db")) as connection:
        assert connection.execute("SELECT count(*) FROM vs_trials").fetchone() == (1,)
        with pytest.raises(Exception, match="readonly"):
            connection.execute("DELETE FROM vs_trials")
    assert sorted(p.name for p in killed.iterdir()) == ["search.db", "search.db-wal"]


def mounted(folder: Path, options: str) -> bool:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
    )
    return done.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system in memory")
def test_results_are_read_on_a_read_only_disk(store: Store, tmp_path: Path) -> None:
    database, disk = tmp_path / "search.db", tmp_path / "disk"
    disk.mkdir()
    if not mounted(disk, "size=4m"):
        pytest.skip("this user may not mount")
    try:
        for suffix in ("", "-wal"):
            content = Path(f"{database}{suffix}").read_bytes()
            (disk / f"search.db{suffix}").write_bytes(content)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        url = sqlite_url(disk / "search.db")
        with closing(open_store(url, create=False)) as opened:
            assert [trial.eval_loss for trial in opened.trials(1)] == [1.0]
            with pytest.raises(StoreError, match="may not be written"):
                opened.start_trial(1, 1, {}, seed=1, data_hash="d1")
        with pytest.raises(StoreError):
            open_store(url, create=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_database_of_an_older_version_is_read_where_nothing_can_be_written(
    store: Store, tmp_path: Path
) -> None:
    from vram_search.store.database import _open_without_writing

    with closing(open_store(sqlite_url(tmp_path / "search.db"), create=True)) as opened:
        with opened.engine.begin() as connection:
            for table in NEWER_TABLES:
                connection.execute(text(f"DROP TABLE {table}"))
            for column in NEWER_COLUMNS:
                connection.execute(text(f"ALTER TABLE vs_trials DROP COLUMN {column}"))
            for column in NEWER_EVALUATION_COLUMNS:
                connection.execute(text(f"ALTER TABLE vs_evaluations DROP COLUMN {column}"))
            connection.execute(text("UPDATE vram_search_alembic_version SET version_num = '0003'"))
        url = opened.engine.url
    engine = _open_without_writing(url)
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM vs_trials")) == 1
    engine.dispose()
    assert open_database(url.render_as_string(), create=True) is not None


@pytest.mark.skipif(os.name == "nt", reason="Windows knows the home folder by its own means")
def test_user_without_a_home_folder_reads_a_named_database(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store.close()

    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "VRAM_SEARCH_HOME", "VRAM_SEARCH_DATABASE", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, "top", "--database", "search.db") == 0
    assert "1.0000" in capsys.readouterr().out
    assert run_here(monkeypatch, "top") == 2
    assert "this user has no home folder" in capsys.readouterr().err
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("top", "--database", "~nobody-of-this-name/search.db"),
        ("db", "backup", "~nobody-of-this-name/copy.db", "--database", "search.db"),
        ("estimate", "--model", "~nobody-of-this-name/model", "--card", "16GB"),
    ],
)
def test_home_of_an_unknown_user_is_one_message(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, *command) == 2
    assert "the home folder is not known" in capsys.readouterr().err


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs a command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["vram-search", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_lock_of_a_folder_that_may_not_be_read_counts_as_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    assert lock_is_held(tmp_path / "run.lock")
