"""A database that version 0.1.0 (commit c44b158) made: it is read and its study goes on."""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from vram_search.store import open_store, sqlite_url

FIXTURE = Path(__file__).parents[1] / "fixtures" / "database_c44b158.db.gz"
"""The tiny study of tests/conftest.py after four trials, and the four imported runs of TD-010."""

VramSearch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def older_database(home: Path) -> Path:
    home.mkdir(parents=True)
    file = home / "vram-search.db"
    file.write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    return file


def trials(vram_search: VramSearch, study: str) -> list[dict[str, object]]:
    done = vram_search("top", "--all", "--study", study, "--json")
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    return list(found["trials"] if isinstance(found, dict) else found)


@pytest.mark.parametrize(
    "command", ["best", "top", "show 2", "why 3", "compare 1 2", "pareto", "report -o page.html"]
)
def test_questions_about_an_older_study_are_answered(
    older_database: Path,
    vram_search: VramSearch,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = vram_search(*command.split(), "--study", "tiny")
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout


def test_every_row_of_an_older_database_is_kept(older_database: Path) -> None:
    before = rows(older_database)
    open_store(sqlite_url(older_database), create=False).close()
    after = rows(older_database)
    assert {name: len(found) for name, found in after.items()} == {
        name: len(found) for name, found in before.items()
    }
    for name, found in before.items():
        for old, new in zip(found, after[name], strict=True):
            assert {key: new[key] for key in old} == old


def rows(file: Path) -> dict[str, list[dict[str, object]]]:
    with closing(sqlite3.connect(file)) as connection:
        connection.row_factory = sqlite3.Row
        return {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2")]
            for name in ("vs_studies", "vs_trials", "vs_step_losses", "vs_evaluations")
        }


def test_losses_still_point_to_the_trials_of_a_migrated_database(older_database: Path) -> None:
    open_store(sqlite_url(older_database), create=False).close()
    with closing(sqlite3.connect(older_database)) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        parents = connection.execute("PRAGMA foreign_key_list(vs_evaluations)").fetchall()
        assert [row[2] for row in parents] == ["vs_trials"]
        with pytest.raises(sqlite3.IntegrityError, match="vs_trials_outcome"):
            connection.execute("UPDATE vs_trials SET outcome = 'odd'")
        connection.execute("UPDATE vs_trials SET outcome = 'unknown'")


def test_older_study_continues_with_its_own_numbers(
    older_database: Path,
    vram_search_without_training: VramSearch,
    write_study: Callable[..., Path],
) -> None:
    vram_search = vram_search_without_training
    before = trials(vram_search, "tiny")
    done = vram_search("run", write_study(), "--trials", "6", "--accept-changes")
    assert done.returncode == 0, done.stdout
    after = {trial["number"]: trial for trial in trials(vram_search, "tiny")}
    for trial in before:
        kept = after[trial["number"]]
        assert {name: kept[name] for name in trial} == trial
    assert sum(trial["outcome"] != "infeasible" for trial in after.values()) == 6
