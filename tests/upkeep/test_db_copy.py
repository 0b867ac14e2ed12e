"""`db copy` moves a record between SQLite and a real PostgreSQL server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from tests.store.postgres import new_database, run_server
from tests.upkeep.conftest import OUTCOMES, SPACE
from vram_search.cli.main import cli
from vram_search.errors import InputError
from vram_search.search import STRATEGIES, Problem, Search, open_storage
from vram_search.store import open_store, sqlite_url
from vram_search.store.database import reading
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
