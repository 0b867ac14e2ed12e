"""Opening a database: made, adopted, migrated, or refused with what to do next."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from tests.store.conftest import Start
from vram_search.errors import StoreError
from vram_search.store import Store, StudyRecord, database, open_store, sqlite_url, tables

TABLES = {
    *("vs_studies", "vs_trials", "vs_step_losses", "vs_evaluations"),
    *("vs_queue", "vs_events", "vs_progress", "vs_untuned_models", "vs_samples"),
    *("vs_product_runs", "vs_runs", "vs_outbox", "vs_workers", "sqlite_sequence"),
    database.VERSION_TABLE,
}
MAKE_OPTUNAS_TABLES = """
import optuna, sys
optuna.create_study(storage=sys.argv[1], study_name="theirs")
"""


def table_names(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in rows}


def execute(file: Path, sql: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(sql)


@pytest.fixture
def next_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A version of the code that knows a revision 0999; yields the file to write it in."""
    folder = tmp_path / "100% later"
    shutil.copytree(database._MIGRATIONS, folder)
    monkeypatch.setattr(database, "_MIGRATIONS", folder)
    monkeypatch.setattr(database, "KNOWN_REVISIONS", (*database.KNOWN_REVISIONS, "0999"))
    yield folder / "versions" / "0999_later.py"


LATER = f"""
from alembic import op
import sqlalchemy as sa
revision, down_revision = "0999", {database.KNOWN_REVISIONS[-1]!r}
def upgrade():
    op.add_column("vs_studies", sa.Column("colour", sa.Text, server_default="blue"))
"""


def test_create_makes_folder_and_tables(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder, 50% & #1?" / "search.db"
    open_store(sqlite_url(file), create=True).close()
    assert table_names(file) == TABLES
    assert open_store(sqlite_url(file), create=False).studies() == []


def test_tables_made_by_the_revisions_are_those_of_the_code(store: Store, tmp_path: Path) -> None:
    migrated = create_engine(sqlite_url(tmp_path / "migrated.db"))
    with migrated.begin() as connection:
        database._migrate(connection)
        context = MigrationContext.configure(
            connection, opts={"version_table": database.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, tables.metadata) == []
        with database.reading(store.engine) as created:
            assert definitions(created) == definitions(connection)
    migrated.dispose()


def definitions(connection: Connection) -> dict[str, list[str]]:
    """The definition of each table and index, by name; its clauses are sorted."""
    rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    constraint_name = re.compile(r"CONSTRAINT \w+_pkc ")
    return {
        name: sorted(constraint_name.sub("", sql).replace('"', "").split(","))
        for name, sql in ((name, " ".join(sql.split())) for name, sql in rows)
    }


def test_version_that_is_recorded_at_creation_is_alembics(store: Store) -> None:
    with database.reading(store.engine) as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": database.VERSION_TABLE}
        )
        assert context.get_current_revision() == database.KNOWN_REVISIONS[-1]


def test_known_revisions_are_alembics() -> None:
    config = Config()
    config.set_main_option("script_location", str(database._MIGRATIONS))
    newest_first = ScriptDirectory.from_config(config).walk_revisions()
    assert tuple(script.revision for script in newest_first)[::-1] == database.KNOWN_REVISIONS


def test_older_database_is_migrated_and_keeps_its_rows(
    store: Store, study: StudyRecord, file: Path, next_revision: Path
) -> None:
    next_revision.write_text(LATER)
    assert open_store(sqlite_url(file), create=False).study("demo") == study
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT colour FROM vs_studies").fetchall() == [("blue",)]


def test_migration_that_fails_changes_nothing(
    store: Store,
    study: StudyRecord,
    file: Path,
    next_revision: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    next_revision.write_text(LATER + "    raise ZeroDivisionError\n")
    with pytest.raises(ZeroDivisionError):
        open_store(sqlite_url(file), create=True)
    monkeypatch.undo()
    assert open_store(sqlite_url(file), create=False).study("demo") == study
    with closing(sqlite3.connect(file)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(vs_studies)")]
    assert "colour" not in columns


def test_newer_database_is_refused(store: Store, study: StudyRecord, file: Path) -> None:
    execute(file, f"UPDATE {database.VERSION_TABLE} SET version_num = '9999'")
    for create in (True, False):
        with pytest.raises(StoreError, match=r"newer vram-search .*9999") as caught:
            open_store(sqlite_url(file), create=create)
        assert "pip install -U vram-search" in caught.value.remedy
        assert caught.value.exit_code == 2
    assert store.study("demo") == study


@pytest.mark.parametrize("relative", [True, False])
def test_missing_database_names_full_path_and_remedy(
    tmp_path: Path, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "absent" / "search.db"
    monkeypatch.chdir(tmp_path)
    url = "sqlite:///absent/search.db" if relative else sqlite_url(file)
    with pytest.raises(StoreError) as caught:
        open_store(url, create=False)
    assert str(caught.value) == (
        f"no database at {file}\n"
        "run `vram-search run STUDY.yaml` first, or name one with --database"
    )
    assert not file.parent.exists()


@pytest.mark.parametrize(
    "content", [b"hello", b"trials:\n  - 1\n" * 500, b"\0" * 4096], ids=["short", "text", "zeros"]
)
@pytest.mark.parametrize("create", [True, False])
def test_file_that_is_no_database_is_refused_untouched(
    file: Path, content: bytes, create: bool
) -> None:
    file.write_bytes(content)
    with pytest.raises(StoreError, match=re.escape(f"{file} is not an SQLite database")):
        open_store(sqlite_url(file), create=create)
    assert file.read_bytes() == content


@pytest.mark.parametrize("create", [True, False])
def test_database_of_another_program_is_refused_untouched(file: Path, create: bool) -> None:
    execute(file, "CREATE TABLE bookmarks (url TEXT)")
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"another program .*bookmarks"):
        open_store(sqlite_url(file), create=create)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_optunas_database_with_anothers_table_is_refused(file: Path, start_python: Start) -> None:
    assert start_python(MAKE_OPTUNAS_TABLES, sqlite_url(file)).wait() == 0
    execute(file, "CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(StoreError, match="another program"):
        open_store(sqlite_url(file), create=True)


def test_optunas_database_is_adopted_and_both_go_on(file: Path, start_python: Start) -> None:
    assert start_python(MAKE_OPTUNAS_TABLES, sqlite_url(file)).wait() == 0
    theirs = table_names(file)
    with pytest.raises(StoreError, match="holds no study of vram-search yet"):
        open_store(sqlite_url(file), create=False)
    assert table_names(file) == theirs
    open_store(sqlite_url(file), create=True).create_study("ours", {}, "d1", {}, {})
    assert table_names(file) == theirs | TABLES
    load = "import optuna, sys; print(optuna.load_study(study_name='theirs', storage=sys.argv[1]))"
    assert start_python(load, sqlite_url(file)).wait() == 0


def test_optuna_can_join_our_database(store: Store, file: Path, start_python: Start) -> None:
    assert start_python(MAKE_OPTUNAS_TABLES, sqlite_url(file)).wait() == 0
    assert table_names(file) > TABLES
    assert open_store(sqlite_url(file), create=True).studies() == []


def test_empty_file_is_a_fresh_database_only_for_create(file: Path) -> None:
    file.touch()
    with pytest.raises(StoreError, match="holds no study"):
        open_store(sqlite_url(file), create=False)
    assert file.stat().st_size == 0
    open_store(sqlite_url(file), create=True)
    assert table_names(file) == TABLES


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        open_store(sqlite_url(tmp_path), create=True)


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    with pytest.raises(StoreError, match="cannot be reached: "):
        open_store(sqlite_url(tmp_path / "data" / "search.db"), create=True)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://localhost/search",
        "sqlite+aiosqlite:////tmp/a.db",
        "http://localhost/search",
        "search.db",
        "",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////tmp/a.db?mode=ro",
        "nosuch+thing://x/y",
        "://",
        "postgresql://localhost:port/search",
        "postgresql://localhost:99999999999999999999x/search",
    ],
)
def test_url_that_names_no_supported_database_is_refused(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(url, create=True)
    assert "sqlite:////absolute/path.db or postgresql://" in caught.value.remedy


def test_password_never_shows_in_an_error() -> None:
    with pytest.raises(StoreError) as caught:
        open_store("postgresql://me:secret@127.0.0.1:1/search", create=False)
    assert "me:***@127.0.0.1:1/search" in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match=r"'postgresql://\.\.\.' is not a database URL") as caught:
        open_store("postgresql://me:secret@127.0.0.1:port/search", create=False)
    assert "secret" not in str(caught.value)


def test_relative_file_stays_the_same_after_changing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///search.db", create=True)
    store.close()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.studies() == []


def test_nearly_full_disk_is_refused_before_a_study_starts(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {"bytes": 63 * 2**20}
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=free["bytes"]))
    with pytest.raises(StoreError, match=r"only 63 MiB are free .* 64 MiB are needed"):
        open_store(sqlite_url(file), create=True)
    assert not file.exists()
    free["bytes"] = 64 * 2**20
    open_store(sqlite_url(file), create=True)
    free["bytes"] = 0
    assert open_store(sqlite_url(file), create=False).studies() == []


COPY_MAKES_A_DATABASE = """
import sys, vram_search
from vram_search.store import open_store
print(vram_search.__file__)
open_store(sys.argv[1], create=True)
"""


def test_package_makes_a_database_without_its_checkout(
    tmp_path: Path, file: Path, start_python: Start
) -> None:
    site_packages = tmp_path / "100% site-packages"
    source = Path(database.__file__).parent.parent
    shutil.copytree(source, site_packages / "vram_search")
    process = start_python(COPY_MAKES_A_DATABASE, sqlite_url(file), folder=site_packages)
    out, error = process.communicate(timeout=60)
    assert out.strip() == str(site_packages / "vram_search" / "__init__.py"), error
    assert process.returncode == 0, error
    assert table_names(file) == TABLES
