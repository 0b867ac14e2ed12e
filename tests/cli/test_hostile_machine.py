"""Output and folders that cannot take what is written: one message, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.factories import HYPERPARAMETERS
from vram_search.store import StepLoss, TrialResult, open_store, sqlite_url

Cli = Callable[..., subprocess.CompletedProcess[str]]
STUDY = "nächtlich-名前"


def write_trial(home: Path) -> None:
    store = open_store(sqlite_url(home / "vram-search.db"), create=True)
    study = store.create_study(STUDY, {}, "d1", {"title": "a card"}, {"name": "a model"})
    trial = store.start_trial(study.id, 0, HYPERPARAMETERS, seed=1, data_hash="d1")
    losses = [StepLoss(step, 1 / step) for step in (1, 2, 3)]
    store.finish_trial(trial, TrialResult("complete", eval_loss=1.0, step_losses=losses))
    store.close()


def printed(*arguments: str, encoding: str) -> str:
    """As from a shell that redirects to a file in a code page."""
    done = subprocess.run(
        [sys.executable, "-m", "vram_search", *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(encoding)


def test_letters_that_a_code_page_lacks_are_others_that_it_has(home: Path) -> None:
    write_trial(home)
    text = printed("show", "0", encoding="cp1252")
    assert "trial 0 of study nächtlich-??: complete" in text
    assert "train loss       #-_ 0.3333" in text


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_json_keeps_every_letter_in_any_code_page(home: Path, encoding: str) -> None:
    write_trial(home)
    text = printed("top", "--json", encoding=encoding)
    assert json.loads(text)["study"] == STUDY
    assert ("\\u540d" in text) is (encoding == "cp1252")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
def test_answer_that_finds_no_room_is_one_message(home: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vram_search", "completion", "bash"],
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: a file or the output cannot be used: No space left on device",
        "remedy: check its permissions and its disk's free space",
    ]


def test_folder_of_a_studys_files_that_cannot_be_used_is_named(
    vram_search: Cli, write_study: Callable[..., Path], home: Path
) -> None:
    """A file in the folder's place: root, as which tests may run, is refused nothing else."""
    home.mkdir()
    (home / "vram-search.db.files").write_text("")
    done = vram_search("run", write_study())
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert f"error: {home / 'vram-search.db.files'}" in done.stdout
