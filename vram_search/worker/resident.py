"""Keeps a run's training process: it loads the base once, serves trials and is replaced."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vram_search.errors import InputError
from vram_search.protocol import (
    LEAK_BYTES,
    Alive,
    AnyEvent,
    EvaluateBaseJob,
    Evaluated,
    Finished,
    GenerateJob,
    LoadFailed,
    LoadJob,
    PruneDecision,
    Ready,
    Resumed,
    TrialJob,
)
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.worker.process import TrainingDiedError, TrainingProcess

LOAD_ATTEMPTS = 3
LATER_LOAD_ATTEMPTS = 30
"""Attempts to load once a process has been ready: a program that uses the card for a quarter of an
hour at night must not end the search. At the start of a run the user is there to close it."""
LOAD_RETRY_SECONDS = 20.0
"""Wait between attempts: after an out-of-memory another program may free memory."""


class ResidentTrainer:
    """Starts the training process when it is needed, and a new one if it is not trusted.

    Args:
        job: the first job of each process, which loads the base.
        log: file for the process's standard error.
        expandable_segments: allocator setting of the processes (torch, Linux only).
        gpu_uuid: the GPU that they see; None leaves the choice to CUDA.
        check: called with each process's report; its InputError ends the process.
    """

    def __init__(
        self,
        job: LoadJob,
        log: Path,
        *,
        expandable_segments: bool,
        gpu_uuid: str | None,
        check: Callable[[Ready], None] = lambda ready: None,
    ) -> None:
        self.job, self.log, self.check = job, log, check
        self._environment: dict[str, str] = {}
        if expandable_segments and sys.platform == "linux":
            self._environment["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
        if gpu_uuid is not None:
            self._environment["CUDA_VISIBLE_DEVICES"] = gpu_uuid
        self._process: TrainingProcess | None = None
        self._ready: Ready | None = None
        self.starts = 0
        self._attempts = LOAD_ATTEMPTS
        self.refused_liger = ""
        """Why the base is loaded without Liger's kernels although they were asked for."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def ready(self) -> Ready:
        """Returns the report of the process that holds the base model; starts it if needed.

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
                self._check(event)
                self._ready, self._attempts = event, LATER_LOAD_ATTEMPTS
                return event
            self.replace()
            assert isinstance(event, LoadFailed), f"loading sent {event}, not ready or failed"
            if event.without_liger and self.job.enable_liger_kernel:
                self.job = self.job.model_copy(update={"enable_liger_kernel": False})
                self.refused_liger = event.message
                continue
            if not event.is_passing or attempt + 1 == self._attempts:
                raise InputError(event.message, event.remedy)
            time.sleep(LOAD_RETRY_SECONDS)
        raise AssertionError("the loop returns or raises")

    def _check(self, ready: Ready) -> None:
        try:
            self.check(ready)
        except InputError:
            self.replace()
            raise

    def run(
        self,
        job: TrialJob,
        on_event: Callable[[AnyEvent], None],
        prune: Callable[[Evaluated], bool],
    ) -> Finished:
        """Runs one trial from its job to its end.

        Args:
            on_event: called with every event.
            prune: decides at a rung if the trial is pruned.

        Raises:
            InputError: the process reports a fault that every other trial would meet too.
            TrainingDiedError: it ended or fell silent.
        """
        self.ready()
        with self._ended_if_dead():
            return self._run(job, on_event, prune)

    def answer(self, job: EvaluateBaseJob | GenerateJob) -> AnyEvent:
        """Sends a job that trains nothing, and returns the event that answers it.

        Raises:
            InputError: the process cannot carry it out, for lack of memory perhaps.
            TrainingDiedError: it ended or fell silent.
        """
        self.ready()
        with self._ended_if_dead():
            assert self._process is not None
            self._process.send(job)
            event = self._process.receive()
        if isinstance(event, LoadFailed):
            self.replace()
            raise InputError(event.message, event.remedy)
        return event

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
            event = process.receive(job.patience_seconds)
            if isinstance(event, Alive):
                continue
            on_event(event)
            if isinstance(event, Evaluated) and event.is_rung:
                process.send(PruneDecision(prune=prune(event)))
            elif isinstance(event, Resumed):
                for passed in (e for e in event.evaluations if e.is_rung):
                    prune(passed)  # Optuna learns the losses; the trial has passed these rungs
            elif isinstance(event, LoadFailed):
                raise InputError(event.message, event.remedy)
            elif isinstance(event, Finished):
                self._after(event, job)
                return event

    def replace(self) -> None:
        """Ends the process; the next trial starts another one."""
        if self._process is not None:
            self._process.stop()
        self._process = self._ready = None

    def restart(self) -> None:
        """Ends the process and starts the next one at once.

        The new process imports and loads while the supervisor records and plans.
        """
        self.replace()
        self._start()

    @contextlib.contextmanager
    def _ended_if_dead(self) -> Iterator[None]:
        """Replaces a process that died or fell silent."""
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
        """Replaces a process that is not trusted any more after this trial.

        The reasons are an out-of-memory, a leak, a changed base, or states that a library never
        frees (bitsandbytes `functional.GlobalPageManager` keeps paged states).
        """
        is_paged = OPTIMIZERS[job.hyperparameters.optim].paged
        leaks = finished.leaked_bytes > LEAK_BYTES
        if finished.outcome == "oom" or leaks or is_paged or not finished.base_intact:
            self.restart()
