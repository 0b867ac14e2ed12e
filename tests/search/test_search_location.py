"""Where the database lies, and what lies beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from vram_search.store import open_store
from vram_search.store.location import (
    database_url,
    file_name,
    files_folder,
    folder_name,
    study_folder,
)

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
    assert study_folder(url, "demo").root == tmp_path / f"{name}.files"


def test_files_of_a_study_lie_in_the_folder_of_its_database(tmp_path: Path) -> None:
    folder = study_folder(database_url(str(tmp_path / "search.db")), "demo")
    root = tmp_path / "search.db.files" / "demo"
    assert folder.adapters == root / "adapters"
    assert folder.exports == root / "exports"
    assert folder.log == root / "training.log"
    assert folder.lock == root / "run.lock"


def files_of(url: str, study: str) -> set[Path]:
    folder = study_folder(url, study)
    return {folder.adapters, folder.checkpoints, folder.exports, folder.log, folder.lock}


def test_two_studies_share_no_file(tmp_path: Path) -> None:
    """Neither two of one database, nor two of the same name in databases of one folder."""
    urls = [database_url(str(tmp_path / name)) for name in ("a.db", "a.sqlite", "b.db")]
    urls += ["postgresql://h/a", "postgresql://h:5433/a", "postgresql://i/a", "postgresql://h/b"]
    every = [files_of(url, study) for url in urls for study in ("one", "other")]
    assert len(set().union(*every)) == sum(map(len, every))


def test_names_that_differ_by_case_have_folders_of_their_own(tmp_path: Path) -> None:
    """Windows and macOS do not tell Demo from demo."""
    url = database_url(str(tmp_path / "search.db"))
    names = ("demo", "Demo", "DEMO")
    assert len({study_folder(url, name).path.name.lower() for name in names}) == 3


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a/b", "a\\b", "con", "NUL.txt", "a.", ""])
def test_name_in_a_foreign_database_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    url = database_url(str(tmp_path / "search.db"))
    folder = study_folder(url, name)
    assert folder.path.parent == tmp_path / "search.db.files"
    assert "~" in folder.path.name
    assert "/" not in folder.path.name


def test_database_has_one_folder_whatever_link_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "search.db").touch()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "other.db").symlink_to(tmp_path / "disk" / "search.db")
    names = ("disk/search.db", "link/search.db", "other.db", "disk/../link/search.db")
    folders = {study_folder(database_url(str(tmp_path / name)), "demo").lock for name in names}
    assert folders == {tmp_path / "disk" / "search.db.files" / "demo" / "run.lock"}


def test_files_of_a_study_on_a_server_lie_in_the_data_folder(home: Path) -> None:
    assert study_folder(POSTGRES, "demo").adapters.is_relative_to(home)


@pytest.mark.parametrize(
    "other",
    [
        "postgresql+psycopg://me:x@127.0.0.1:5432/name",
        "postgresql://LOCALHOST/name?connect_timeout=3&sslmode=require",
        "postgresql://me@/name?host=/var/run/postgresql",
        "postgresql:///?dbname=name&host=localhost&port=5432",
        "postgresql://[::1]/name",
    ],
)
def test_spellings_of_one_server_share_a_folder(home: Path, other: str) -> None:
    assert files_folder(other) == files_folder("postgresql://localhost/name")


@pytest.mark.parametrize(
    "other",
    ["postgresql://localhost:5433/name", "postgresql://localhost/other", "postgresql://host/name",
     "postgresql://localhost/name?options=-csearch_path%3Dmine"],
)  # fmt: skip
def test_other_databases_have_another_folder(home: Path, other: str) -> None:
    assert files_folder(other) != files_folder("postgresql://localhost/name")


def test_folder_of_an_older_version_is_used_on(home: Path) -> None:
    old = home / f"{folder_name('name@127.0.0.1:5432')}.files"
    old.mkdir(parents=True)
    assert files_folder("postgresql://127.0.0.1/name") == old


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a\\b", "..", "", "a" * 200])
def test_name_of_a_foreign_study_leads_out_of_no_folder(name: str) -> None:
    file = Path("exports") / file_name(name)
    assert file.parent == Path("exports")
    assert file.name not in ("..", ".")


def test_usual_name_is_kept_in_files() -> None:
    assert file_name("Qwen2.5-3B_td-010") == "Qwen2.5-3B_td-010"
