"""A tool's Python is found, kept apart from ours, and ends with us."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vram_search.errors import InputError
from vram_search.verify.environment import find_environment, run_logged, tool_variables


def test_without_an_environment_the_error_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no LLaMA-Factory was found") as caught:
        find_environment(None)
    assert "-m venv" in caught.value.remedy
    assert "--python" in caught.value.remedy


def test_a_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a Python that can be run"):
        find_environment(tmp_path / "python")


def test_a_python_without_llama_factory_is_refused() -> None:
    with pytest.raises(InputError, match=r"has no working LLaMA-Factory: .*llamafactory"):
        find_environment(Path(sys.executable))


def test_variables_that_lead_to_our_packages_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("VIRTUAL_ENV", "/ours")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    found = tool_variables({"RECORD_VRAM": "1"})
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & found.keys()
    assert (found["CUDA_VISIBLE_DEVICES"], found["RECORD_VRAM"]) == ("3", "1")


def test_the_exit_code_and_the_log_come_back(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import sys; print('said'); sys.exit(3)"]
    assert run_logged(command, tmp_path, log, dict(os.environ)) == 3
    assert log.read_text() == "said\n"


def test_ctrl_c_kills_the_tool(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    waiting = (
        "import os, pathlib, threading\n"
        f"pathlib.Path({str(told)!r}).write_text(str(os.getpid()))\n"
        "threading.Event().wait()\n"
    )

    def interrupt() -> None:
        if told.exists() and told.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_logged(
            [sys.executable, "-c", waiting], tmp_path, tmp_path / "log", dict(os.environ), interrupt
        )
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)
