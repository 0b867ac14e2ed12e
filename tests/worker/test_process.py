"""A training process that dies says nothing; its exit code and its log do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vram_search.worker import process
from vram_search.worker.process import TrainingDiedError, TrainingProcess

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for python")


def death(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, last_words: str) -> TrainingDiedError:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{last_words}' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(process, "COMMAND", (str(python),))
    started = TrainingProcess(tmp_path / "log", {})
    try:
        with pytest.raises(TrainingDiedError, match="ended with code 1") as found:
            started.receive(timeout=20)
    finally:
        started.stop()
    return found.value


def test_memory_that_ran_out_in_a_librarys_c_code_is_read_from_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert death(monkeypatch, tmp_path, "Error out of memory at line 380").is_out_of_memory


def test_log_of_an_earlier_process_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("Error out of memory at line 380\n")
    assert not death(monkeypatch, tmp_path, "Segmentation fault").is_out_of_memory
