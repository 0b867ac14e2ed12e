"""A crash in a library's C code leaves a trace of Python's threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CRASH = "import os, signal; crash = lambda *_, **__: os.kill(os.getpid(), signal.SIGSEGV); "


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
@pytest.mark.parametrize(
    "end",
    [
        "import vram_search.cli.main as cli; cli.cli.main = crash; cli.main()",
        "import vram_search.train.__main__ as train; train.serve = crash; train.main()",
    ],
    ids=["command line", "training process"],
)
def test_segmentation_fault_leaves_a_trace(end: str) -> None:
    words = (sys.executable, "-c", CRASH + end)
    supervisor = os.pipe()  # stays open: the training process ends with exit code 0 when it closes
    try:
        ended = subprocess.run(words, capture_output=True, text=True, stdin=supervisor[0])
    finally:
        for end_of_pipe in supervisor:
            os.close(end_of_pipe)
    assert ended.returncode < 0 and "Fatal Python error: Segmentation fault" in ended.stderr
    assert "most recent call first" in ended.stderr
