"""`doctor` shows what trains here, and in which dtype."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vram_search.worker import training_device

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_doctor_asks_the_training_stack_for_its_dtype(vram_search_without_training: Cli) -> None:
    done = vram_search_without_training("doctor", "--json")
    found = json.loads(done.stdout)["training"]
    assert found["compute_dtype"] in ("float32", "bfloat16", "float16")
    assert found["reason"].startswith("it ")


def test_doctor_says_which_dtype_and_why(
    vram_search_without_training: Cli, training_device_at_hand: None
) -> None:
    done = vram_search_without_training("doctor")
    assert "training  CPU, in float32:\n          it is a fake\n" in done.stdout


def test_data_folder_that_is_a_file_is_a_problem(
    vram_search_without_training: Cli,
    training_device_at_hand: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VRAM_SEARCH_HOME", str(tmp_path / "file"))
    done = vram_search_without_training("doctor")
    words = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert f"the database cannot be used: {tmp_path / 'file'} is a file, not a folder" in words


def test_torch_that_cannot_be_loaded_is_a_problem(
    vram_search_without_training: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = (sys.executable, "-c", "raise OSError('libtorch.so is missing')")
    monkeypatch.setattr(training_device, "COMMAND", failing)
    done = vram_search_without_training("doctor")
    assert done.returncode == 1
    assert "PROBLEM   torch cannot be loaded: OSError: libtorch.so is missing" in done.stdout
