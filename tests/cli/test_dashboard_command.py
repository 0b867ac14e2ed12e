"""`vram-search dashboard` as a person starts it: the address, Ctrl-C, and what may be missing."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import start_cli
from vram_search.cli.main import main
from vram_search.search import Search
from vram_search.spec import SearchSpace
from vram_search.store import open_store, sqlite_url


@pytest.fixture
def database(home: Path) -> Path:
    """A database with a search in it."""
    file = home / "vram-search.db"
    open_store(sqlite_url(file), create=True).close()
    Search(sqlite_url(file), "demo", 1, SearchSpace(), 2, (0.5,), 7).close()
    return file


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to one process")
@pytest.mark.parametrize("options", [(), ("--open",)], ids=" ".join)
def test_dashboard_names_its_address_answers_and_ends_on_ctrl_c(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    browser, visited = tmp_path / "browser", tmp_path / "visited"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{visited}"\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    process = start_cli("dashboard", *options)
    assert process.stdout is not None
    assert str(database) in process.stdout.readline()
    page = process.stdout.readline().strip()
    assert page.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(page) as answer:
        assert b"Optuna Dashboard" in answer.read()
    assert visited.exists() == bool(options)
    if options:
        assert visited.read_text().strip() == page
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["vram-search", "dashboard"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_missing_package_is_one_message_with_the_line_that_installs_it(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    said = refused(monkeypatch, capsys)
    assert said.splitlines() == [
        "error: the package optuna-dashboard is not installed",
        'remedy: pip install "optuna-dashboard>=0.21"',
    ]


def test_missing_database_is_refused_and_not_made(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no database at" in refused(monkeypatch, capsys)
    assert not home.exists()
