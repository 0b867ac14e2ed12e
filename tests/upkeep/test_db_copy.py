"""`db copy` moves a record between SQLite and a real PostgreSQL server."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, select, text

from tests.store.postgres import new_database, run_server
from tests.upkeep.conftest import OUTCOMES, SPACE
from vram_search.cli.main import cli
from vram_search.errors import InputError, StoreError, VramSearchError
from vram_search.search import STRATEGIES, Problem, Search, open_storage
from vram_search.store import open_store, sqlite_url
from vram_search.store.database import reading
from vram_search.store.queue import StudyQueue
from vram_search.store.tables import metadata


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    yield from run_server()


def rows_of(url: str) -> dict[str, list[Any]]:
    """All rows of our tables."""
    with closing(open_store(url, create=False)) as store, reading(store.engine) as connection:
        return {
            table.name: sorted(map(repr, connection.execute(select(table))))
            for table in metadata.sorted_tables
        }


def copy(source: str, target: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["db", "copy", source, target, "--json"])
    if done.exception is not None:
        raise done.exception
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def go_on(url: str) -> int:
    """Runs the next trial of the copied search; returns its number."""
    with closing(open_store(url, create=False)) as store, open_storage(url, "demo") as storage:
        study = store.study("demo")
        assert study is not None
        search = Search(storage, "demo", 1, Problem(SPACE, (0.5,)), STRATEGIES["random"], 7)
        proposal = search.ask()
        point = proposal.hyperparameters.model_dump(mode="json")
        store.start_trial(study.id, proposal.number, point, seed=7, data_hash="d1")
        return proposal.number


@pytest.mark.postgres
def test_record_goes_to_postgresql_and_back_and_the_search_continues_on_both(
    database: Path, home: Path, server: str, tmp_path: Path
) -> None:
    source, back = sqlite_url(database), sqlite_url(tmp_path / "back.db")
    before = rows_of(source)
    with new_database(server, "copied") as there:
        first = copy(str(database), there)
        assert first["rows"]["vs_trials"] == first["rows"]["trials"] == len(OUTCOMES)
        assert rows_of(there) == before
        assert list(home.rglob("adapter_model.safetensors"))
        copy(there, back)
        assert rows_of(back) == before
        assert go_on(there) == go_on(back) == len(OUTCOMES)
        checked = CliRunner().invoke(cli, ["db", "check", "--database", back])
        assert "leftover" not in checked.output, checked.output


def test_copy_into_another_file_holds_the_same_rows_and_files(
    database: Path, tmp_path: Path
) -> None:
    target = tmp_path / "copy.db"
    copy(str(database), str(target))
    assert rows_of(sqlite_url(target)) == rows_of(sqlite_url(database))
    names = {p.relative_to(f"{database}.files") for p in Path(f"{database}.files").rglob("*.s*")}
    assert names == {
        p.relative_to(f"{target}.files") for p in Path(f"{target}.files").rglob("*.s*")
    }
    with pytest.raises(InputError, match="holds studies already"):
        copy(str(database), str(target))


def test_target_that_a_service_has_used_is_refused(database: Path, tmp_path: Path) -> None:
    target = tmp_path / "used.db"
    with closing(open_store(sqlite_url(target), create=True)) as used:
        StudyQueue(used.engine).add("other", "study: other", is_detached=True)
    before = rows_of(sqlite_url(target))
    with pytest.raises(InputError, match="holds rows in vs_"):
        copy(str(database), str(target))
    assert rows_of(sqlite_url(target)) == before


@pytest.mark.parametrize("command", ["copy", "backup"])
def test_target_stays_empty_if_its_files_cannot_be_written(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "copy.db"
    arguments = {
        "copy": [str(database), str(target)],
        "backup": [str(target), "--database", str(database)],
    }[command]
    with monkeypatch.context() as patched:
        patched.setattr(shutil.copytree, "__defaults__", (False, None, full, False, False))
        failed = CliRunner().invoke(cli, ["db", command, *arguments])
    assert isinstance(failed.exception, VramSearchError)
    assert "No space left" in failed.exception.message
    assert not Path(f"{target}.files").exists()
    done = CliRunner().invoke(cli, ["db", command, *arguments])  # with space again
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("command", ["copy", "backup"])
def test_files_that_a_search_removes_meanwhile_are_left_out(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def after_removal(source: str, target: str, **options: Any) -> str:
        if "checkpoints" in source:
            Path(source).unlink()
        return shutil.copyfile(source, target)

    folder = Path(f"{database}.files") / "demo" / "checkpoints"
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    target = tmp_path / "copy.db"
    arguments = {
        "copy": [str(database), str(target)],
        "backup": [str(target), "--database", str(database)],
    }[command]
    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, after_removal, False, False))
    done = CliRunner().invoke(cli, ["db", command, *arguments])
    assert done.exit_code == 0, done.output
    assert list(Path(f"{target}.files").rglob("adapter_model.safetensors"))
    assert not list(Path(f"{target}.files").rglob("trainer_state.json"))


@pytest.mark.postgres
def test_server_that_refuses_writing_is_named(database: Path, server: str) -> None:
    with new_database(server, "standby") as there:
        engine = create_engine(there, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ALTER DATABASE standby SET default_transaction_read_only=on"))
        engine.dispose()
        short = there.replace("postgresql+psycopg", "postgres")
        with pytest.raises(StoreError, match="is read-only: cannot execute"):
            copy(str(database), short)


@pytest.mark.postgres
def test_user_without_rights_is_told_which(database: Path, server: str) -> None:
    with new_database(server, "foreign") as there:
        engine = create_engine(there, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CREATE USER guest"))
        with pytest.raises(StoreError, match=r"has no rights for this user.*schema public"):
            copy(str(database), there.replace("//tests@", "//guest@"))
        with engine.connect() as connection:
            connection.execute(text("DROP USER guest"))
        engine.dispose()
