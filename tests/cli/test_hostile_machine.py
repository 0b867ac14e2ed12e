"""Output and folders that cannot take what is written: one message, no traceback."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO
from unittest.mock import Mock

import pytest

from tests.factories import HYPERPARAMETERS
from vram_search.cli import main as command_line
from vram_search.cli.console import echo, make_console, output_may_fail
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
        "remedy: free some space on its disk",
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
@pytest.mark.parametrize("way", ["nobody reads", "terminal is gone", "disk is full"])
def test_search_goes_on_when_its_output_fails(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "disk is full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe() if way == "nobody reads" else os.openpty()
        os.close(reader)
    with os.fdopen(descriptor, "w", encoding="utf-8") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with output_may_fail():
            for _ in range(3):
                echo("a line")
            make_console().print("a table")
        assert sys.stdout is output


def read_late(pipe: TextIO) -> str:
    """Reads everything, after the pipe was filled."""
    time.sleep(0.02)
    return pipe.read()


@pytest.mark.skipif(os.name == "nt", reason="pipes of Windows always block")
def test_full_pipe_that_does_not_block_loses_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wanted = "".join(f"line {n}\n" for n in range(20_000))
    with os.fdopen(reader, encoding="utf-8") as read, ThreadPoolExecutor(1) as pool:
        with os.fdopen(writer, "w", encoding="utf-8") as output:
            received = pool.submit(read_late, read)
            monkeypatch.setattr(sys, "stdout", output)
            with output_may_fail():
                sys.stdout.write(wanted)
        assert received.result(10) == wanted


def said_about(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What the command line prints if a command raises an error; it exits with 1."""
    monkeypatch.setattr(command_line.cli, "main", Mock(side_effect=error))
    for name in ("excepthook", "argv"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (RuntimeError("can't start new thread"), "`ulimit -u`"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "`ulimit -u`"),
        (MemoryError(), "end other programs"),
        (OSError(errno.EMFILE, "Too many open files", "/a/file"), "`ulimit -n 4096`"),
        (OSError(errno.ENOLCK, "No locks available"), "local disk"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/file"), "permissions"),
    ],
)
def test_limit_of_the_machine_is_one_message_with_its_own_remedy(
    error: Exception,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = said_about(error, monkeypatch, capsys).splitlines()
    assert [line.partition(":")[0] for line in said] == ["error", "remedy"]
    assert remedy in said[1]


def test_installation_that_changed_while_the_command_ran_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`pip install --upgrade` during a night: what is imported at its end is not there any more."""

    with pytest.raises(ModuleNotFoundError) as missing:
        importlib.import_module("vram_search.no_such_module")
    said = said_about(missing.value, monkeypatch, capsys)
    assert "error: a part of the program cannot be imported: No module named 'vram_" in said
    assert "remedy: the installation is incomplete or was changed" in said


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
