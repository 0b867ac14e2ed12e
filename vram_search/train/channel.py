"""Receives jobs, sends events, and ends the training process together with its supervisor."""

from __future__ import annotations

import faulthandler
import os
import queue
import sys
import threading
import time
from typing import TextIO

from vram_search.protocol import (
    ALIVE_SECONDS,
    STALL_SECONDS,
    Alive,
    AnyEvent,
    AnyJob,
    TrialJob,
    parse_job,
)


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
        self._patience_seconds = STALL_SECONDS
        self._sent_at = 0.0

    def _read(self) -> None:
        for line in sys.stdin:
            self._jobs.put(line)
        # The supervisor closed the line or died: nobody will record this trial.
        os._exit(0)

    def receive(self) -> AnyJob:
        """Waits for the next job and returns it."""
        faulthandler.cancel_dump_traceback_later()
        job = parse_job(self._jobs.get())
        if isinstance(job, TrialJob):
            self._patience_seconds = job.patience_seconds
        self._watch()
        return job

    def send(self, event: AnyEvent) -> None:
        """Sends an event; it counts as progress.

        A supervisor that is dead ends the process here too: its end closes the pipe of the events
        a moment before that of the jobs, on which `_read` waits.
        """
        try:
            self._out.write(event.model_dump_json() + "\n")
            self._out.flush()
        except OSError:  # a broken pipe; Windows names it EINVAL
            os._exit(0)
        self._sent_at = time.monotonic()
        self._watch()

    def send_alive(self) -> None:
        """Sends a sign of progress if nothing was sent for a while."""
        if time.monotonic() - self._sent_at >= ALIVE_SECONDS:
            self.send(Alive())

    def _watch(self) -> None:
        """Lets the stacks of all threads be written into the log if nothing more is sent in time.

        It is a thread of C code: it needs neither signals nor the interpreter's lock.
        """
        faulthandler.dump_traceback_later(self._patience_seconds, file=sys.stderr)
