"""A Ray cluster as `worker.on_cluster` uses it. Ray is imported in this file alone.

A worker is a Ray task that holds one GPU. Ray chooses the node, sets CUDA_VISIBLE_DEVICES, and runs
the task again on another GPU if its process or its node dies; it waits while no GPU is free.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

from vram_search.errors import InputError
from vram_search.worker.on_cluster import WorkerEnd, WorkerJob, run_worker

CANCEL_SECONDS = 60.0
"""Time that interrupted workers get to record their trials."""
CONNECT_SECONDS = 10.0
FOR_EVER = -1
"""Ray runs a task again however often its node dies."""


class PrintedNotes:
    """The listener of a worker: its notes go to the log of its Ray process."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def run_started(self, finished: int, best: object) -> None: ...
    def untuned_evaluated(self, eval_loss: float | None) -> None: ...
    def trial_started(self, proposal: object, planned: object) -> None: ...
    def trial_event(self, event: object, sample: object) -> None: ...
    def others_running(self, trials: object) -> None: ...
    def trial_ended(self, record: object) -> None: ...


class RayCluster:
    """An existing cluster.

    Args:
        address: of its head node, such as `10.0.0.1:6379`; `auto` finds the one of this machine.
        work: what a worker does on its node.

    Raises:
        InputError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(
        self, address: str = "auto", work: Callable[[WorkerJob], WorkerEnd] | None = None
    ) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise InputError(
                "--on ray needs the package ray, which is not installed",
                "pip install 'vram-search[ray]'",
            ) from None
        _check_address(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(address, str(error).splitlines()[0]) from None
        self._ray = ray
        self._task = ray.remote(num_gpus=1, num_cpus=0, max_retries=FOR_EVER)(work or _work)

    def close(self) -> None:
        """Leaves the cluster, which goes on."""
        self._ray.shutdown()

    def gpus(self) -> int:
        return int(self._ray.cluster_resources().get("GPU", 0))

    def nodes(self) -> list[str]:
        return [node["NodeManagerAddress"] for node in self._ray.nodes() if node["Alive"]]

    def start(self, job: WorkerJob) -> Any:
        return self._task.remote(job)

    def ended(self, tasks: list[Any], seconds: float) -> list[Any]:
        return list(self._ray.wait(tasks, num_returns=1, timeout=seconds)[0])

    def result(self, task: Any) -> WorkerEnd:
        try:
            end: WorkerEnd = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()
            return WorkerEnd(f"Ray: {said[-1] if said else error!r}", "`ray status`, `ray logs`")
        return end

    def cancel(self, tasks: list[Any]) -> None:
        for task in tasks:
            self._ray.cancel(task)
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks), timeout=CANCEL_SECONDS)


def _check_address(address: str) -> None:
    """Ray itself tries an address at which nothing answers for more than 45 s.

    Raises:
        InputError: nothing answers at a `HOST:PORT`.
    """
    host, _, port = address.rpartition(":")
    if "/" in host or not host or not port.isdecimal():
        return  # `auto`, `ray://...`, or Ray names the fault
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str, why: str) -> InputError:
    return InputError(
        f"no Ray cluster answers at {address}: {why}",
        "start one with `ray start --head`, or name its head node with --address",
    )


def _work(job: WorkerJob) -> WorkerEnd:
    """Runs in a process of Ray, on a node of the cluster."""
    return run_worker(job, PrintedNotes())
