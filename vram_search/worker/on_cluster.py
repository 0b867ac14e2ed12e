"""Runs a study on every GPU of a cluster: one worker for each, placed and restarted by the cluster.

This process trains nothing. It opens the study, asks the cluster for a worker on each GPU, shows
the trials that they end, and starts further workers when GPUs are added. `worker.ray_cluster` is
the cluster; a test has its own.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from vram_search.errors import InputError, VramSearchError
from vram_search.outbound.delivery import delivering
from vram_search.store import Store, StudyRecord, open_store
from vram_search.store.location import database_url, study_folder
from vram_search.store.workers import workers_of
from vram_search.worker.lease import worker_words
from vram_search.worker.listener import RunListener
from vram_search.worker.open_study import open_study
from vram_search.worker.prepare import Prepared, prepare
from vram_search.worker.queue_place import study_locked
from vram_search.worker.recorded_run import recorded_run
from vram_search.worker.recorded_study import recorded_spec
from vram_search.worker.run import join_study, tell_what_was_found
from vram_search.worker.run_log import logged_run
from vram_search.worker.stop_rule import StopRule

POLL_SECONDS = 2.0
Task = TypeVar("Task")


@dataclass(frozen=True)
class WorkerJob:
    """Command and settings of a worker of a cluster.

    Attributes:
        url: of the database, as the nodes reach it.
        trials, seconds: of its stop rule; None: no such limit.
    """

    url: str
    study: str
    trials: int | None
    seconds: float | None


@dataclass(frozen=True)
class WorkerEnd:
    """How a worker ended: by the reason why it starts no further trial, or by an error.

    Attributes:
        remedy: of the error; None if it ended regularly.
    """

    message: str
    remedy: str | None = None


class Cluster(Protocol[Task]):
    """The part of a cluster that is used here."""

    def gpus(self) -> int:
        """Number of GPUs of the nodes that are alive."""
        ...

    def nodes(self) -> list[str]:
        """Addresses of the nodes that are alive."""
        ...

    def start(self, job: WorkerJob) -> Task:
        """Asks for a worker on one GPU; it is restarted if its process or node dies."""
        ...

    def ended(self, tasks: list[Task], seconds: float) -> list[Task]:
        """Waits for the end of a task, so many seconds at most; returns those that have ended."""
        ...

    def result(self, task: Task) -> WorkerEnd:
        """Returns how the worker of a task ended."""
        ...

    def cancel(self, tasks: list[Task]) -> None:
        """Interrupts workers, as Ctrl-C does, and waits for their end."""
        ...


def run_on_cluster(
    prepared: Prepared,
    stop: StopRule,
    listener: RunListener,
    cluster: Cluster[Task],
    *,
    accept_changes: bool = False,
) -> str:
    """Runs or continues a study on all GPUs of a cluster and returns the reason for its end.

    Raises:
        InputError: the cluster has no GPU, the database is a file that its nodes do not share, or
            the study cannot be used as it is.
        VramSearchError: every worker ended with an error.
        KeyboardInterrupt: the workers were interrupted; their trials are recorded as lost.
    """
    study = prepared.study
    url = database_url(study.database)
    _check(url, cluster)
    folder = study_folder(url, study.study)
    with (
        contextlib.closing(open_store(url, create=True)) as store,
        study_locked(folder),
        logged_run(folder, listener) as logged,
        delivering(store, logged.note),
    ):
        record = open_study(store, prepared, accept_changes=accept_changes)
        with recorded_run(store, record.id) as run:
            tell_what_was_found(store, record, stop, logged)
            job = WorkerJob(url, record.name, stop.trials, stop.seconds_left)
            run.stopped = _Run(store, record, logged, cluster, job).to_its_end()
            logged.run_ended(run.stopped)
            return run.stopped


def _check(url: str, cluster: Cluster[Task]) -> None:
    nodes = cluster.nodes()
    if not cluster.gpus():
        raise InputError(
            f"the cluster has no GPU on its {len(nodes)} nodes",
            "start a node with one: ray start --address HEAD:6379 --num-gpus 1",
        )
    if url.startswith("sqlite") and len(set(nodes)) > 1:
        raise InputError(
            f"the database is a file of this machine, and the cluster has {len(set(nodes))} others",
            "name a PostgreSQL server: --database postgresql://USER@HOST/NAME",
        )


class _Run(Generic[Task]):
    """The workers of one run, and what its listener knows of them."""

    def __init__(
        self,
        store: Store,
        record: StudyRecord,
        listener: RunListener,
        cluster: Cluster[Task],
        job: WorkerJob,
    ) -> None:
        self._store, self._record, self._listener = store, record, listener
        self._cluster, self._job = cluster, job
        self._tasks: list[Task] = []
        self._started = 0
        ended = (t.number for t in store.trials(record.id) if t.outcome is not None)
        self._told = set(ended)
        self._first_open = 0
        self._workers: dict[int, str] = {}

    def to_its_end(self) -> str:
        """Returns the reason why the last worker ended."""
        why: str | None = None
        fault: WorkerEnd | None = None
        self._start_workers()
        try:
            while self._tasks:
                for task in self._cluster.ended(self._tasks, POLL_SECONDS):
                    self._tasks.remove(task)
                    end = self._cluster.result(task)
                    if end.remedy is None:
                        why = end.message
                    else:
                        fault = end
                        self._listener.note(f"a worker has ended: {end.message}")
                self._tell()
                if why is None and fault is None:
                    self._start_workers()
        except BaseException:
            self._cluster.cancel(self._tasks)
            self._tell()
            raise
        if why is None:
            assert fault is not None, "every task has a result"
            raise VramSearchError(fault.message, fault.remedy or "")
        return why

    def _start_workers(self) -> None:
        """Starts workers on GPUs that have none yet."""
        gpus = self._cluster.gpus()
        if gpus > self._started:
            places = f"{gpus} GPUs on {len(self._cluster.nodes())} nodes"
            self._listener.note(f"the cluster has {places}: one worker on each")
        for _ in range(gpus - self._started):
            self._tasks.append(self._cluster.start(self._job))
        self._started = max(gpus, self._started)

    def _tell(self) -> None:
        """Tells the listener of workers that came or went, and of trials that have ended."""
        now = {
            worker.id: worker_words([worker])
            for worker in workers_of(self._store.engine, self._record.id)
            if worker.device is not None
        }
        for worker_id in now.keys() - self._workers.keys():
            self._listener.note(f"{now[worker_id]} has joined")
        for worker_id in self._workers.keys() - now.keys():
            self._listener.note(f"{self._workers[worker_id]} has left")
        self._workers = now
        for trial in self._store.trials(self._record.id, first=self._first_open):
            if trial.outcome is not None and trial.number not in self._told:
                self._told.add(trial.number)
                self._listener.trial_ended(trial)
        while self._first_open in self._told:
            self._first_open += 1


def run_worker(job: WorkerJob, listener: RunListener) -> WorkerEnd:
    """Runs trials of the study on the GPU of this process; called on a node of the cluster."""
    try:
        with contextlib.closing(open_store(job.url, create=False)) as store:
            record = store.study(job.study)
        if record is None:
            raise InputError(f"there is no study {job.study} in the database")
        prepared = prepare(recorded_spec(record, job.url), listener.note)
        stop = StopRule(job.trials).for_seconds(job.seconds)
        return WorkerEnd(join_study(prepared, record, stop, listener, beside=True))
    except VramSearchError as error:
        return WorkerEnd(error.message, error.remedy)
