"""Faults 4 and 5 of the table in whole runs: a second name of a study, a deleted database."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import start_cli
from tests.fake_trainer import COMMAND as FAKE_TRAINER

Cli = Callable[..., subprocess.CompletedProcess[str]]
start = partial(start_cli, command=FAKE_TRAINER)


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} was never printed")


@pytest.fixture
def held_study(
    write_study: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A study whose first trial never ends by itself."""
    monkeypatch.setenv("HELD_TRIALS", "0")
    return write_study(training={"max_steps": 2000, "rungs": [0.5]})


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_database_reached_through_a_link_is_the_same_study(
    vram_search_without_training: Cli, held_study: Path, tmp_path: Path
) -> None:
    real, link = tmp_path / "real.db", tmp_path / "link.db"
    first = start("run", held_study, "--database", real)
    read_until(first, "probe passed")
    link.symlink_to(real)
    second = vram_search_without_training("run", held_study, "--database", link)
    goes_on = first.poll() is None
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)

    assert second.returncode == 2
    assert "is being run by another process" in second.stdout
    assert goes_on, "the first run is not disturbed"
    assert first.returncode == 130


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be deleted there")
def test_database_deleted_in_mid_run_ends_the_run_in_one_message(
    held_study: Path, tmp_path: Path
) -> None:
    database = tmp_path / "search.db"
    run = start("run", held_study, "--database", database)
    read_until(run, "probe passed")
    for file in tmp_path.glob("search.db*"):
        if file.is_file():
            file.unlink()
    trainer = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True)
    os.kill(int(trainer.stdout), signal.SIGKILL)  # the trial ends, and is to be recorded
    output, _ = run.communicate(timeout=60)

    assert run.returncode == 2, output
    assert "was deleted or moved while it was in use" in output
    assert "Traceback" not in output
    assert not database.exists(), "no empty database takes its place"
