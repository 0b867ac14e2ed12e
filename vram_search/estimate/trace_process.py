"""Runs `python -m vram_search.trace`, and shows how far it is."""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Timer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

WORDS = "tracing the model's own code, once per kind of training"
MOST_SECONDS = 600.0
"""A trace that takes longer is given up. The slowest family takes 25 s of one core."""


class TraceStoppedError(Exception):
    """A trace ended without an answer; the text says why."""


class TraceProcess:
    """The process that traces, started at the first question and kept."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._one_at_a_time = Lock()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            TraceStoppedError: the process died, or took more than MOST_SECONDS.
        """
        with self._one_at_a_time, _progress() as show:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            is_late = Event()

            def give_up() -> None:
                is_late.set()
                process.kill()

            timer = Timer(MOST_SECONDS, give_up)
            timer.daemon = True
            timer.start()
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                for line in process.stdout:
                    message: dict[str, Any] = json.loads(line)
                    if "done" not in message:
                        return message
                    show(message["done"], message["all"])
            except (OSError, ValueError):
                pass
            finally:
                timer.cancel()
            self._process = None
            process.kill()
            with suppress(OSError):  # a request that it never read
                process.communicate()
        if is_late.is_set():
            raise TraceStoppedError(f"it took more than {MOST_SECONDS / 60:.0f} minutes")
        raise TraceStoppedError("its process ended; is there enough memory?")

    def _started(self) -> subprocess.Popen[str]:
        import subprocess  # a prediction from the cache needs none

        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vram_search.trace"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
            atexit.register(self._process.kill)
        return self._process


_SAID: list[bool] = []


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on stderr where that is a terminal; otherwise one line for all questions."""
    if not sys.stderr.isatty():
        if not _SAID:
            print(f"{WORDS} (10 to 60 s)", file=sys.stderr, flush=True)
            _SAID.append(True)
        yield lambda done, count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(WORDS, total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)
