"""Runs a conversion of a trained adapter in a process of its own, which loads torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from vram_search.errors import InputError, VramSearchError
from vram_search.extras import check_training_packages
from vram_search.protocol import (
    CONVERT_EVENT,
    AnyConvertJob,
    Converted,
    LoadFailed,
    Note,
)
from vram_search.worker.process import log_tail

_OUT_OF_MEMORY = (
    "probably main memory ran out: it must hold the model to measure it; --no-check leaves that out"
)
COMMAND = (sys.executable, "-m", "vram_search.train.convert")


def convert(job: AnyConvertJob, log: Path, tell: Callable[[str], None]) -> Converted:
    """Does the job and returns its result; the process ends with this one, also by Ctrl-C.

    Args:
        log: file for the process's standard error.
        tell: called with each line of progress.

    Raises:
        InputError: base, adapter or rows cannot be used.
        VramSearchError: the process died.
    """
    check_training_packages()
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, log.open("ab") as errors:
        file = Path(scratch) / "job.json"
        file.write_text(job.model_dump_json(), encoding="utf-8")
        process = subprocess.Popen(
            [*COMMAND, str(file)],
            stdin=subprocess.PIPE,  # its end tells the process that this one is gone
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            answer = _listen(process, tell)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
    if isinstance(answer, LoadFailed):
        raise InputError(answer.message, answer.remedy)
    if answer is None:
        raise VramSearchError(
            f"the conversion ended with code {process.returncode}; the end of its log:\n"
            f"{log_tail(log)}",
            _OUT_OF_MEMORY if process.returncode == -9 else f"the whole log is {log}",
        )
    return answer


def _listen(
    process: subprocess.Popen[str], tell: Callable[[str], None]
) -> Converted | LoadFailed | None:
    """Returns the answer; None if the process died without one."""
    assert process.stdout is not None
    for line in process.stdout:
        event = CONVERT_EVENT.validate_json(line)
        if not isinstance(event, Note):
            return event
        tell(event.text)
    process.wait()
    return None
