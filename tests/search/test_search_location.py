"""Where the database lies, and what lies beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from vram_search.store import open_store
from vram_search.store.location import database_url, study_folder

POSTGRES = "postgresql://user@host/name"


def path_of(url: str) -> Path:
    assert make_url(url).get_backend_name() == "sqlite"
    return Path(str(make_url(url).database))


def test_default_database_lies_in_the_data_folder(home: Path) -> None:
    assert path_of(database_url(None)) == home / "vram-search.db"


def test_variable_names_a_database_and_an_option_beats_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAM_SEARCH_DATABASE", str(tmp_path / "variable.db"))
    assert path_of(database_url(None)) == tmp_path / "variable.db"
    assert path_of(database_url(str(tmp_path / "option.db"))) == tmp_path / "option.db"


def test_empty_variable_counts_as_unset(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAM_SEARCH_DATABASE", "")
    assert path_of(database_url(None)) == home / "vram-search.db"


def test_url_is_taken_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert database_url(POSTGRES) == POSTGRES
    monkeypatch.setenv("VRAM_SEARCH_DATABASE", POSTGRES)
    assert database_url(None) == POSTGRES


def test_relative_file_and_home_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "me"))
    assert path_of(database_url("here.db")) == tmp_path / "here.db"
    assert path_of(database_url("~/mine.db")) == tmp_path / "me" / "mine.db"


@pytest.mark.parametrize("name", ["a b.db", "50%.db", "a#b.db", "a?b=c.db", "Übung.db", "a@b:c.db"])
def test_database_is_made_at_the_very_file_that_was_named(tmp_path: Path, name: str) -> None:
    url = database_url(str(tmp_path / name))
    open_store(url, create=True).close()
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".db"] == [name]
    assert study_folder(url, "demo").root == tmp_path


def test_files_of_a_study_lie_beside_its_database(tmp_path: Path) -> None:
    folder = study_folder(database_url(str(tmp_path / "search.db")), "demo")
    assert folder.adapters == tmp_path / "adapters" / "demo"
    assert folder.exports == tmp_path / "exports" / "demo"
    assert folder.log == tmp_path / "logs" / "demo.log"
    assert folder.lock == tmp_path / "locks" / "demo.lock"


def test_two_studies_of_one_database_share_no_file(tmp_path: Path) -> None:
    url = database_url(str(tmp_path / "search.db"))
    one, other = study_folder(url, "one"), study_folder(url, "other")
    assert {one.adapters, one.exports, one.log, one.lock}.isdisjoint(
        {other.adapters, other.exports, other.log, other.lock}
    )


def test_study_name_with_a_dot_keeps_it_in_its_files(tmp_path: Path) -> None:
    folder = study_folder(database_url(str(tmp_path / "search.db")), "qwen2.5")
    assert (folder.log.name, folder.lock.name) == ("qwen2.5.log", "qwen2.5.lock")


def test_files_of_a_study_on_a_server_lie_in_the_data_folder(home: Path) -> None:
    assert study_folder(POSTGRES, "demo").adapters == home / "adapters" / "demo"
