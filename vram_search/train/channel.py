"""Receives jobs, sends events, and ends the training process together with its supervisor."""

from __future__ import annotations

import os
import queue
import sys
import threading
from typing import TextIO

from vram_search.protocol import AnyEvent, AnyJob, parse_job


def silence_libraries() -> None:
    """Switches off progress bars, telemetry and advice, so that the log holds only errors."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Channel:
    """Reads jobs from standard input and writes events to standard output.

    The output of libraries goes to standard error, so that it cannot break a line.
    """

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="jobs", daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self._jobs.put(line)
        # The supervisor closed the line or died: nobody will record this trial.
        os._exit(0)

    def receive(self) -> AnyJob:
        """Waits for the next job and returns it."""
        return parse_job(self._jobs.get())

    def send(self, event: AnyEvent) -> None:
        self._out.write(event.model_dump_json() + "\n")
        self._out.flush()
