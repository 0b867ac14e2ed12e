"""The resident training process of a run: loads the base once, serves trials, is replaced."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vram_search.errors import InputError
from vram_search.protocol import (
    LEAK_BYTES,
    AnyEvent,
    Evaluated,
    Finished,
    LoadFailed,
    LoadJob,
    PruneDecision,
    Ready,
    TrialJob,
)
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.worker.process import TrainingDiedError, TrainingProcess

LOAD_ATTEMPTS = 3
LATER_LOAD_ATTEMPTS = 30
"""Once a process has been ready: a program that takes the card for a quarter of an hour at night
must not end the search. At the start somebody is there to close it."""
LOAD_RETRY_SECONDS = 20.0
"""After an out-of-memory the card may need a moment; a neighbour may leave."""


class ResidentTrainer:
    """Starts the training process when it is needed, and a new one where it is not trusted.

    Args:
        job: what each process loads first.
        log: the process's standard error.
        expandable_segments: allocator setting of the processes (torch, Linux only).
        gpu_uuid: the GPU they see; None leaves the choice to CUDA.
    """

    def __init__(
        self, job: LoadJob, log: Path, *, expandable_segments: bool, gpu_uuid: str | None
    ) -> None:
        self.job, self.log = job, log
        self._environment: dict[str, str] = {}
        if expandable_segments and sys.platform == "linux":
            self._environment["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
        if gpu_uuid is not None:
            self._environment["CUDA_VISIBLE_DEVICES"] = gpu_uuid
        self._process: TrainingProcess | None = None
        self._ready: Ready | None = None
        self.starts = 0
        self._attempts = LOAD_ATTEMPTS

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def ready(self) -> Ready:
        """The process with its base model resident; starts one where none is.

        Raises:
            InputError: the model or the rows cannot be used.
            TrainingDiedError: it ended while loading.
        """
        if self._ready is not None:
            return self._ready
        with self._ended_if_dead():
            return self._load()

    def _load(self) -> Ready:
        for attempt in range(self._attempts):
            event = (self._process or self._start()).receive()
            if isinstance(event, Ready):
                self._ready, self._attempts = event, LATER_LOAD_ATTEMPTS
                return event
            self.replace()
            assert isinstance(event, LoadFailed), f"loading sent {event}, not ready or failed"
            if not event.is_passing or attempt + 1 == self._attempts:
                raise InputError(event.message, event.remedy)
            time.sleep(LOAD_RETRY_SECONDS)
        raise AssertionError("the loop returns or raises")

    def run(
        self,
        job: TrialJob,
        on_event: Callable[[AnyEvent], None],
        prune: Callable[[Evaluated], bool],
    ) -> Finished:
        """One trial from its job to its end.

        Args:
            on_event: sees every event.
            prune: the verdict at a rung.

        Raises:
            InputError: the process reports a fault that no other trial would escape.
            TrainingDiedError: it ended or fell silent.
        """
        self.ready()
        with self._ended_if_dead():
            return self._run(job, on_event, prune)

    def _run(
        self,
        job: TrialJob,
        on_event: Callable[[AnyEvent], None],
        prune: Callable[[Evaluated], bool],
    ) -> Finished:
        process = self._process
        assert process is not None
        process.send(job)
        while True:
            event = process.receive()
            on_event(event)
            if isinstance(event, Evaluated) and event.is_rung:
                process.send(PruneDecision(prune=prune(event)))
            elif isinstance(event, LoadFailed):
                raise InputError(event.message, event.remedy)
            elif isinstance(event, Finished):
                self._after(event, job)
                return event

    def replace(self) -> None:
        """Ends the process; the next trial starts a new one."""
        if self._process is not None:
            self._process.stop()
        self._process = self._ready = None

    def restart(self) -> None:
        """Ends the process and starts the next one at once: it imports and loads while the
        supervisor records and plans."""
        self.replace()
        self._start()

    @contextlib.contextmanager
    def _ended_if_dead(self) -> Iterator[None]:
        """A process that died or fell silent is not asked again."""
        try:
            yield
        except TrainingDiedError:
            self.replace()
            raise

    def _start(self) -> TrainingProcess:
        self._process = TrainingProcess(self.log, self._environment)
        self.starts += 1
        self._process.send(self.job)
        return self._process

    def _after(self, finished: Finished, job: TrialJob) -> None:
        """An out-of-memory, a leak, a changed base, or states that a library never frees: not
        trusted any more (bitsandbytes `functional.GlobalPageManager` keeps paged states)."""
        is_paged = OPTIMIZERS[job.hyperparameters.optim].paged
        leaks = finished.leaked_bytes > LEAK_BYTES
        if finished.outcome == "oom" or leaks or is_paged or not finished.base_intact:
            self.restart()
