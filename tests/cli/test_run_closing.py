"""How `vram-search run` ends: the report is there and named, and its failure is no search's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]
AT_ONCE = ("--hours", "1e-9")
"""Ends a run before its first trial."""


@pytest.fixture
def vram_search(vram_search_without_training: Cli) -> Cli:
    return vram_search_without_training


@pytest.fixture
def report(home: Path) -> Path:
    return home / "exports" / "tiny" / "tiny-report.html"


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
    assert report.is_file()


def test_report_that_cannot_be_written_fails_no_search(
    vram_search: Cli, write_study: Callable[..., Path], report: Path
) -> None:
    report.mkdir(parents=True)
    done = vram_search("run", write_study(), *AT_ONCE)
    assert done.returncode == 0, done.stdout
    assert "no report was written: " in done.stdout
    assert "Traceback" not in done.stdout
    assert "to open in a browser" not in done.stdout
