"""The training process's end of the line: jobs in, events out, death with the supervisor."""

from __future__ import annotations

import os
import queue
import sys
import threading
from typing import TextIO

from vram_search.protocol import AnyEvent, LoadJob, PruneDecision, TrialJob, parse_job


def silence_libraries() -> None:
    """No progress bars, no telemetry, no advice: the log holds what went wrong and nothing else."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Channel:
    """Jobs from standard input, events to standard output.

    What libraries print goes to standard error, so that it cannot break a line.
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

    def receive(self) -> LoadJob | TrialJob | PruneDecision:
        """The next job; waits for it."""
        return parse_job(self._jobs.get())

    def send(self, event: AnyEvent) -> None:
        self._out.write(event.model_dump_json() + "\n")
        self._out.flush()
