"""The lease of this process: it tells the other workers of a study that its trials are alive.

A thread renews the lease in the database. On the machine itself a lock file tells at once whether
the process lives; on other machines only a lease that expires tells that it is dead.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from vram_search.errors import StoreError, TooLateError
from vram_search.store import Store, StudyRecord
from vram_search.store.location import StudyFolder
from vram_search.store.queue import StudyQueue
from vram_search.store.turn import study_turn
from vram_search.store.workers import (
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    WorkerRecord,
    add_worker,
    describe_worker,
    end_worker,
    renew_lease,
    workers_of,
)
from vram_search.worker.lock_file import lock_is_held

STEADY_SECONDS = 3 * HEARTBEAT_SECONDS
"""After an outage of the database all leases have expired: a worker that has renewed its own for
this long knows that the others could have renewed theirs."""


class LeaseLostError(Exception):
    """Another worker has ended this worker's lease, and runs its trial again."""


@dataclass
class Lease:
    """This process as a worker of a study.

    Attributes:
        joins: other workers run the study already, or may join it.
        share: number of trainings that run on this card, each with its part of it.
        neighbour_bytes: predicted bytes of other studies on this card.
        rank: number of workers that were there before.
        worker_id: changes when the lease is lost and taken again.
    """

    store: Store
    study: StudyRecord
    joins: bool = False
    share: int = 1
    neighbour_bytes: int = 0
    rank: int = 0
    worker_id: int = 0
    _lock: FileLock | None = None
    _device: tuple[str, int] | None = None
    _is_lost: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)
    _renewed_at: float = 0.0
    _steady_since: float = field(default_factory=time.monotonic)

    def take(self) -> None:
        """Takes a new lease. The caller holds the turn: nobody sees a worker without its lock."""
        engine, study = self.store.engine, self.study
        self.worker_id = add_worker(engine, study.id, platform.node(), os.getpid())
        file = StudyFolder(self.store.files, study.name).worker_lock(self.worker_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(file, thread_local=False)
        self._lock.acquire()
        self._renewed_at, self._is_lost = time.monotonic(), False
        if self._device is not None:
            self.describe(*self._device)

    def describe(self, device: str, budget_bytes: int) -> None:
        """Records the card that this worker trains on."""
        self._device = device, budget_bytes
        describe_worker(self.store.engine, self.worker_id, device, budget_bytes)

    def release(self) -> None:
        """Ends the lease. In a database that is out of reach or on a full disk it expires."""
        self._end(self.worker_id, self._lock)
        self._lock = None

    def take_again(self) -> None:
        """Takes a new lease in place of one that was lost, or whose trials are given up. The caller
        holds the turn."""
        before, lock = self.worker_id, self._lock
        self.take()
        StudyQueue(self.store.engine).change_worker(before, self.worker_id)
        self._end(before, lock)

    def _end(self, worker_id: int, lock: FileLock | None) -> None:
        is_ended = False
        with contextlib.suppress(StoreError):
            end_worker(self.store.engine, worker_id)
            is_ended = True
        if lock is not None:
            lock.release()
            if is_ended:  # otherwise the file tells that the worker of this lease is dead
                with contextlib.suppress(OSError):
                    Path(lock.lock_file).unlink(missing_ok=True)

    def check(self) -> None:
        """Checks that the lease is still held.

        Raises:
            LeaseLostError: another worker has ended the lease.
        """
        if self._is_lost:
            raise LeaseLostError

    def renew(self) -> None:
        """Renews the lease now.

        Raises:
            LeaseLostError: another worker has ended it.
        """
        self._is_lost = self._is_lost or not renew_lease(self.store.engine, self.worker_id)
        self.check()

    def keep(self) -> None:
        """Starts the thread that renews the lease."""
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def end(self) -> None:
        """Ends lease and thread."""
        self._ended.set()
        self.release()

    @property
    def is_steady(self) -> bool:
        """True if the lease has been renewed without a gap for STEADY_SECONDS."""
        return time.monotonic() - self._steady_since >= STEADY_SECONDS

    def others(self) -> list[WorkerRecord]:
        """Returns the other workers of the study that are alive."""
        return [
            worker
            for worker in living_workers(self.store, self.study)
            if worker.id != self.worker_id
        ]

    def dead(self) -> list[WorkerRecord]:
        """Returns workers whose process is dead. The decision about those of other machines waits
        until this worker's own lease is steady."""
        return [
            worker
            for worker in workers_of(self.store.engine, self.study.id)
            if worker.id != self.worker_id
            and not is_alive(self.store, self.study.name, worker)
            and (self.is_steady or is_here(self.store, self.study.name, worker))
        ]

    def _renew(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(StoreError):
                worker_id = self.worker_id
                if not renew_lease(self.store.engine, worker_id):
                    self._is_lost = worker_id == self.worker_id
                now = time.monotonic()
                if now - self._renewed_at > 2 * HEARTBEAT_SECONDS:
                    self._steady_since = now
                self._renewed_at = now


@contextlib.contextmanager
def leased(
    store: Store, study: StudyRecord, *, joins: bool = False, share: int = 1
) -> Iterator[Lease]:
    """Makes this process a worker of the study.

    Args:
        joins: it joins a study that others run; otherwise it does so only if there are others.
        share: number of trainings that run on this card.
    """
    with study_turn(store.engine, study.id, study.name):
        found = living_workers(store, study)
        lease = Lease(store, study, joins=joins or bool(found), share=share, rank=len(found))
        lease.take()
    lease.keep()
    try:
        yield lease
    finally:
        lease.end()


def is_here(store: Store, study: str, worker: WorkerRecord) -> bool:
    """Returns True if the worker runs, or ran, on this machine and in this folder."""
    file = StudyFolder(store.files, study).worker_lock(worker.id)
    return worker.host == platform.node() and file.exists()


def is_alive(store: Store, study: str, worker: WorkerRecord) -> bool:
    """Returns True if the worker's process lives: by its lock file on its own machine, by its lease
    elsewhere."""
    if is_here(store, study, worker):
        return lock_is_held(StudyFolder(store.files, study).worker_lock(worker.id))
    return not worker.is_expired


def living_workers(store: Store, study: StudyRecord) -> list[WorkerRecord]:
    """Returns the workers of a study whose process lives."""
    found = workers_of(store.engine, study.id)
    return [worker for worker in found if is_alive(store, study.name, worker)]


def refuse_if_worked_on(store: Store, study: StudyRecord, remedy: str) -> None:
    """Refuses a study that workers run.

    Raises:
        TooLateError: workers run trials of the study.
    """
    if found := living_workers(store, study):
        raise TooLateError(
            f"study {study.name} is being run by {worker_words(found)}",
            f"{remedy}; one that was killed is forgotten after {LEASE_SECONDS:.0f} s",
        )


def worker_words(workers: Sequence[WorkerRecord]) -> str:
    """Names workers: "host a (process 1, NVIDIA H200), host b (process 2)"."""
    return ", ".join(
        f"host {worker.host} (process {worker.pid}"
        + (f", {worker.device})" if worker.device else ")")
        for worker in workers
    )
