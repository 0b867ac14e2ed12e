"""`vram-search dashboard` as a person starts it: the address, Ctrl-C, and what may be missing."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import start_cli
from vram_search.cli.main import main
from vram_search.search import STRATEGIES, Problem, Search, open_storage
from vram_search.spec import SearchSpace
from vram_search.store import TrialResult, open_store, sqlite_url
from vram_search.store.records import Outcome


@contextmanager
def opened_search(file: Path) -> Iterator[Search]:
    with open_storage(sqlite_url(file)) as storage:
        problem = Problem(SearchSpace(), rungs=(0.5,))
        yield Search(storage, "demo", 1, problem, STRATEGIES["gp"], 7)


@pytest.fixture
def database(home: Path) -> Path:
    """A database with a search in it."""
    file = home / "vram-search.db"
    open_store(sqlite_url(file), create=True).close()
    with opened_search(file):
        pass
    return file


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to one process")
def test_dashboard_names_its_address_answers_and_ends_on_ctrl_c(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, visited = tmp_path / "browser", tmp_path / "visited"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{visited}"\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{shlex.quote(str(browser))} %s")
    process = start_cli("dashboard", "--open")
    assert process.stdout is not None
    assert str(database) in process.stdout.readline()
    page = process.stdout.readline().strip()
    assert page.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(page) as answer:
        assert b"Optuna Dashboard" in answer.read()
    assert visited.read_text().strip() == page
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


@pytest.mark.slow  # tests/search/test_search_dashboard.py covers it in one process
@pytest.mark.skipif(os.name == "nt", reason="SIGINT to one process")
def test_infeasible_trial_is_named_so_and_one_out_of_memory_stays_pruned(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER", f"touch {tmp_path / 'visited'}")
    end_trials(database, ("infeasible", "oom", "complete"))
    process = start_cli("dashboard")
    assert process.stdout is not None
    process.stdout.readline()
    page = process.stdout.readline().strip()
    study, missing = (page.replace("/dashboard", f"/api/studies/{number}") for number in (1, 9))
    try:
        with urllib.request.urlopen(study) as answer:
            trials = json.load(answer)["trials"]
        assert [trial["state"] for trial in trials] == ["Infeasible", "Pruned", "Complete"]
        assert [trial["constraints"][0] > 0 for trial in trials] == [True, True, False]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(missing)
        assert not (tmp_path / "visited").exists(), "no browser without --open"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def end_trials(database: Path, outcomes: tuple[Outcome, ...]) -> None:
    """Trials of the study in `database` that ended so."""
    store = open_store(sqlite_url(database), create=False)
    study = store.create_study("demo", {}, "d1", {}, {})
    with opened_search(database) as search:
        for outcome in outcomes:
            proposal = search.ask()
            point = proposal.hyperparameters.model_dump(mode="json")
            trial_id = store.start_trial(study.id, proposal.number, point, 42, "d1")
            store.record_plan(trial_id, {}, {})
            loss = 1.0 if outcome == "complete" else None
            store.finish_trial(trial_id, TrialResult(outcome, eval_loss=loss))
            record = store.trial(study.id, proposal.number)
            search.tell(proposal.number, outcome, loss, 0.25, record)
    store.close()


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
