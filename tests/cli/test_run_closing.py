"""How `vram-search run` ends: the report is there and named, and its failure is no search's."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text

from vram_search.cli.interrupts import second_interrupt_quits
from vram_search.cli.plain_view import PlainView
from vram_search.store import TrialRecord, open_store, sqlite_url
from vram_search.store.database import writing

Cli = Callable[..., subprocess.CompletedProcess[str]]
AT_ONCE = ("--hours", "1e-9")
"""Ends a run before its first trial."""


@pytest.fixture
def vram_search(vram_search_without_training: Cli) -> Cli:
    return vram_search_without_training


@pytest.fixture
def report(home: Path) -> Path:
    return home / "vram-search.db.files" / "tiny" / "exports" / "tiny-report.html"


def test_run_without_a_complete_trial_names_its_report_too(
    vram_search: Cli, write_study: Callable[..., Path], report: Path
) -> None:
    done = vram_search("run", write_study(), *AT_ONCE)
    assert done.returncode == 0, done.stdout
    assert "nothing to export" in done.stdout
    assert done.stdout.splitlines()[-1] == f"report, to open in a browser: {report}"
    assert "<html" in report.read_text(encoding="utf-8")


def test_json_of_a_run_holds_the_reports_path(
    vram_search: Cli, write_study: Callable[..., Path], report: Path
) -> None:
    done = vram_search("run", write_study(), *AT_ONCE, "--json")
    answer = json.loads(done.stdout[done.stdout.index("{") :])
    assert answer["report"] == str(report)
    assert answer["night"]["stopped"] == answer["stopped"] and answer["night"]["outcomes"] == {}
    assert report.is_file()


def test_ctrl_c_prints_the_same_ending_as_the_end_of_time(
    vram_search: Cli,
    write_study: Callable[..., Path],
    report: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt_after_the_first_trial(view: PlainView, record: TrialRecord) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PlainView, "trial_ended", interrupt_after_the_first_trial)
    done = vram_search("run", write_study(), "--trials", 3)
    assert done.returncode == 130, done.stdout
    assert "study tiny: interrupted by Ctrl-C" in done.stdout
    assert "best of study tiny: trial 0" in done.stdout
    assert "sweet spot" in done.stdout
    assert "not exported: " in done.stdout  # a random model has no name to train from
    assert f"report, to open in a browser: {report}" in done.stdout
    words = " ".join(done.stdout.split())
    assert "this run: " in words and "(interrupted by Ctrl-C): 1 trial (1 complete)" in words
    assert "no trial was complete before" in words
    assert "Latest run" in report.read_text(encoding="utf-8")
    listed = " ".join(vram_search("studies").stdout.split())
    assert "last run of tiny:" in listed and "(interrupted by Ctrl-C): 1 trial" in listed


def test_second_ctrl_c_ends_the_process_at_once() -> None:
    code = (
        "import os, signal\n"
        "from vram_search.cli.interrupts import second_interrupt_quits\n"
        "with second_interrupt_quits():\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "        print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0 and done.stdout == ""


def test_report_that_cannot_be_written_fails_no_search(
    vram_search: Cli, write_study: Callable[..., Path], report: Path
) -> None:
    report.mkdir(parents=True)
    done = vram_search("run", write_study(), *AT_ONCE)
    assert done.returncode == 0, done.stdout
    assert "no report was written: " in done.stdout
    assert "Traceback" not in done.stdout
    assert "to open in a browser" not in done.stdout


def test_interrupt_that_is_dropped_in_a_finaliser_is_raised_again() -> None:
    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), second_interrupt_quits():
        one: Finalised | None = Finalised()
        del one  # Python drops the KeyboardInterrupt here
        for _ in range(500):
            time.sleep(0.02)


def test_interrupt_waits_for_the_end_of_a_transaction(tmp_path: Path) -> None:
    store = open_store(sqlite_url(tmp_path / "search.db"), create=True)
    reached = []

    def interrupt(connection: Connection) -> None:
        signal.raise_signal(signal.SIGTERM)
        reached.append("commit goes on")

    event.listen(store.engine, "commit", interrupt)
    with pytest.raises(KeyboardInterrupt), second_interrupt_quits():
        with writing(store.engine) as connection:
            connection.execute(text("DELETE FROM vs_trials"))
        for _ in range(500):
            time.sleep(0.02)
    assert reached == ["commit goes on"]
    store.close()


def test_interrupt_that_other_code_caught_is_raised_at_the_next_event() -> None:
    with pytest.raises(KeyboardInterrupt), second_interrupt_quits() as interrupts:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupts.raise_dropped()
