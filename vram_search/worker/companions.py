"""Companions of a run: workers on the same card, each a process with a training process of its own.

A companion reads its standard input: the line `stop` lets its running trial finish, and the end of
the input, which the death of the run causes too, interrupts it as Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from vram_search.store.location import DATABASE_VARIABLE
from vram_search.worker.queue_place import interrupt_main_thread

COMMAND = (sys.executable, "-m", "vram_search")
STOP = "stop\n"
STOPPED = "the run that started this worker has ended"
END_SECONDS = 60.0
"""Time that an interrupted companion gets to record its trial."""


class Companions:
    """The companions of one run.

    Args:
        share: number of trainings on the card, that of the run included.
        log: file for their output.
    """

    def __init__(self, url: str, study: str, entry_id: int, share: int, log: Path) -> None:
        self._url, self._study, self._entry_id, self._share = url, study, entry_id, share
        self._log = log
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, limits: list[str]) -> None:
        """Starts them, once the base model is known to load; those that run are left alone.

        Args:
            limits: options of `vram-search worker` that say when it ends.
        """
        if self._processes:
            return
        self._log.parent.mkdir(parents=True, exist_ok=True)
        options = ("--entry", str(self._entry_id), "--share", str(self._share), *limits)
        for _ in range(self._share - 1):
            with self._log.open("ab") as output:
                self._processes.append(
                    subprocess.Popen(
                        [*COMMAND, "worker", "--study", self._study, "--no-keep-awake", *options],
                        stdin=subprocess.PIPE,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        text=True,
                        env={**os.environ, DATABASE_VARIABLE: self._url, "PYTHONUNBUFFERED": "1"},
                        **_own_group(),
                    )
                )

    def finish(self) -> None:
        """Lets them finish their running trials and waits for their end."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.write(STOP)
                process.stdin.flush()
        for process in self._processes:
            process.wait()

    def interrupt(self) -> None:
        """Interrupts those that run; each records its trial as lost."""
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def companions(url: str, study: str, entry_id: int, share: int, log: Path) -> Iterator[Companions]:
    """Yields the companions of a run; none outlives it."""
    found = Companions(url, study, entry_id, share, log)
    try:
        yield found
        found.finish()
    finally:
        found.interrupt()


class RunThatStartedThis:
    """The run of which this process is a companion.

    Args:
        words: this process's standard input.
    """

    def __init__(self, words: TextIO) -> None:
        self._words, self._is_over = words, threading.Event()
        threading.Thread(target=self._listen, name="run", daemon=True).start()

    def why_over(self) -> str:
        """The reason why the companion ends after its running trial; empty if it goes on."""
        return STOPPED if self._is_over.is_set() else ""

    def _listen(self) -> None:
        for line in self._words:
            if line == STOP:
                self._is_over.set()
        interrupt_main_thread()


def _own_group() -> dict[str, Any]:
    """Ctrl-C in the terminal reaches the run alone, which ends its companions."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined,unused-ignore]
    return {"start_new_session": True}
