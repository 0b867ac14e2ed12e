"""Worker processes that share the card, fed from one queue of runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.curves.runs import Key, Run
from vram_search.protocol import LoadJob, TrialJob

ATTEMPTS = 2
"""Attempts for a run if its process dies, and for a process if it fails to start."""

Row = dict[str, Any]


COMMAND = (sys.executable, "-m", "bench.curves.worker")


class WorkerDiedError(Exception):
    """The process ended without an answer; its log says why."""


class WorkerProcess:
    """`python -m bench.curves.worker`; returns when the base is loaded.

    Args:
        log: file that its standard error is appended to.

    Raises:
        WorkerDiedError: it ended while loading.
    """

    def __init__(self, tasks: Mapping[str, LoadJob], log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        jobs = {task: job.model_dump(mode="json") for task, job in tasks.items()}
        try:
            self.machine = self._ask(jobs)
        except WorkerDiedError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def measure(self, task: str, job: TrialJob) -> Row:
        """One run's figures, named as in a row.

        Raises:
            WorkerDiedError: the process ended during it.
        """
        return self._ask({"task": task, "job": job.model_dump(mode="json")})

    def _ask(self, message: Row) -> Row:
        assert self._process.stdin and self._process.stdout, "both are pipes"
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerDiedError from None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise WorkerDiedError
        answer: Row = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Pool:
    """Works off the runs in their order, several at a time, up to a deadline.

    A run is begun only where it is expected to end in time. One whose process dies is begun once
    more, in a new process.

    Args:
        start: gives a worker process; called in several threads.
        record: takes each finished run; called by one thread at a time.
        deadline: as `time.monotonic` counts.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        start: Callable[[], WorkerProcess],
        record: Callable[[Run, Row], None],
        deadline: float,
    ) -> None:
        self.start, self.record, self.deadline = start, record, deadline
        self._queue, self._lock = deque(runs), threading.Lock()
        self._deaths: Counter[Key] = Counter()
        self._guessed = self._taken = 0.0
        self.lost: list[Run] = []
        """Runs whose process died at every attempt."""
        self.machine: Row = {}
        """Device and versions, once a worker process has started."""

    def work(self, workers: int) -> None:
        """Returns when every run is done or the time is over."""
        with ThreadPoolExecutor(max(1, workers)) as seats:
            for seat in [seats.submit(self._sit) for _ in range(workers)]:
                seat.result()

    def _sit(self) -> None:
        """One seat: a process after another, each until it dies or nothing is left to do."""
        failures = 0
        while self._queue and failures < ATTEMPTS:
            try:
                process = self.start()
            except WorkerDiedError:
                failures += 1
                continue
            self.machine = process.machine
            try:
                self._feed(process)
                return
            except WorkerDiedError:
                continue
            finally:
                process.close()

    def _feed(self, process: WorkerProcess) -> None:
        while (run := self._take()) is not None:
            began = time.monotonic()
            try:
                row = process.measure(run.task, run.job)
            except WorkerDiedError:
                self._put_back(run)
                raise
            with self._lock:
                self._guessed += run.guessed_seconds
                self._taken += time.monotonic() - began
                self.record(run, row)

    def _take(self) -> Run | None:
        with self._lock:
            if not self._queue:
                return None
            pace = self._taken / self._guessed if self._guessed else 1.0
            if time.monotonic() + pace * self._queue[0].guessed_seconds > self.deadline:
                return None
            return self._queue.popleft()

    def _put_back(self, run: Run) -> None:
        with self._lock:
            self._deaths[run.key] += 1
            if self._deaths[run.key] < ATTEMPTS:
                self._queue.appendleft(run)
            else:
                self.lost.append(run)
