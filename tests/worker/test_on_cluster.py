"""A study on the GPUs of a cluster: workers for all of them, their trials, their ends."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.factories import FakeListener
from tests.fake_trainer import COMMAND as FAKE_TRAINER
from vram_search.errors import InputError, VramSearchError
from vram_search.spec import load_study
from vram_search.store import TrialRecord, open_store
from vram_search.store.runs import latest_run
from vram_search.store.workers import workers_of
from vram_search.worker import process
from vram_search.worker.on_cluster import WorkerEnd, WorkerJob, run_on_cluster, run_worker
from vram_search.worker.prepare import Prepared, prepare
from vram_search.worker.stop_rule import ENDLESS, StopRule

WriteStudy = Callable[..., Path]
DONE = WorkerEnd("2 trials are finished")


class Listener(FakeListener):
    """Keeps the trials that have ended, too."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[int] = []

    def trial_ended(self, record: TrialRecord) -> None:
        self.ended.append(record.number)


class ScriptedCluster:
    """A cluster whose workers end as it is written, one at each look.

    Args:
        gpus: at each look; the last number stays.
        ends: of the workers, in the order of their start.
    """

    def __init__(self, gpus: Sequence[int], ends: Sequence[WorkerEnd | BaseException]) -> None:
        self._gpus, self._ends = iter([*gpus, *[gpus[-1]] * 99]), list(ends)
        self.addresses = ["10.0.0.1"]
        self.jobs: list[WorkerJob] = []
        self.cancelled: list[int] = []

    def gpus(self) -> int:
        return next(self._gpus)

    def nodes(self) -> list[str]:
        return self.addresses

    def start(self, job: WorkerJob) -> int:
        self.jobs.append(job)
        return len(self.jobs) - 1

    def ended(self, tasks: list[int], seconds: float) -> list[int]:
        return tasks[:1] if len(self._ends) > tasks[0] else []

    def result(self, task: int) -> WorkerEnd:
        end = self._ends[task]
        if isinstance(end, BaseException):
            raise end
        return end

    def cancel(self, tasks: list[int]) -> None:
        self.cancelled += tasks


class ThisMachine(ScriptedCluster):
    """A cluster of one GPU, whose worker runs in this process."""

    def __init__(self) -> None:
        super().__init__([1], [DONE])

    def result(self, task: int) -> WorkerEnd:
        return run_worker(self.jobs[task], FakeListener())


@pytest.fixture
def prepared(home: Path, write_study: WriteStudy) -> Prepared:
    return prepare(load_study(write_study()), print)


def test_worker_of_a_cluster_runs_the_study_and_its_trials_are_shown(
    url: str, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "COMMAND", FAKE_TRAINER)
    listener = Listener()
    why = run_on_cluster(prepared, StopRule(2), listener, ThisMachine())
    assert why == "2 trials are finished"
    assert listener.ended == [0, 1]
    with closing(open_store(url, create=False)) as store:
        study = store.study("tiny")
        assert study is not None
        run = latest_run(store, study.id)
    assert run is not None and run.stopped == why


def test_every_gpu_gets_a_worker_also_one_that_is_added(prepared: Prepared) -> None:
    cluster, listener = ScriptedCluster([2, 2, 3], [DONE, DONE, DONE]), Listener()
    cluster.ended = lambda tasks, seconds: [] if len(cluster.jobs) < 3 else tasks[:1]  # type: ignore[method-assign]
    run_on_cluster(prepared, StopRule(2).for_seconds(60), listener, cluster)
    assert len(cluster.jobs) == 3
    assert cluster.jobs[0].trials == 2 and 50 < (cluster.jobs[0].seconds or 0) <= 60
    assert "the cluster has 3 GPUs on 1 nodes: one worker on each" in listener.notes


def test_run_ends_with_an_error_only_if_every_worker_does(prepared: Prepared) -> None:
    broken, listener = WorkerEnd("the rows differ", "copy them"), Listener()
    assert run_on_cluster(prepared, ENDLESS, listener, ScriptedCluster([2], [broken, DONE]))
    assert "a worker has ended: the rows differ" in listener.notes
    with pytest.raises(VramSearchError, match="the rows differ") as error:
        run_on_cluster(prepared, ENDLESS, listener, ScriptedCluster([2], [broken, broken]))
    assert error.value.remedy == "copy them"


def test_interrupt_reaches_the_workers(prepared: Prepared) -> None:
    cluster = ScriptedCluster([2], [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        run_on_cluster(prepared, ENDLESS, Listener(), cluster)
    assert cluster.cancelled == [1]


def test_cluster_without_a_gpu_is_refused(prepared: Prepared) -> None:
    with pytest.raises(InputError, match="no GPU"):
        run_on_cluster(prepared, ENDLESS, Listener(), ScriptedCluster([0], []))


def test_file_is_refused_as_the_database_of_several_machines(prepared: Prepared) -> None:
    cluster = ScriptedCluster([2], [])
    cluster.addresses = ["10.0.0.1", "10.0.0.2"]
    with pytest.raises(InputError, match="file of this machine") as error:
        run_on_cluster(prepared, ENDLESS, Listener(), cluster)
    assert "postgresql://" in error.value.remedy


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "127.0.0.1:99999", "no..such:6379"])
def test_address_at_which_nothing_answers_is_refused_before_ray_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    from vram_search.worker.ray_cluster import RayCluster

    ray = ModuleType("ray")
    ray.init = lambda **options: pytest.fail("Ray waits")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    with socket.socket() as silent:  # bound, and does not listen
        silent.bind(("127.0.0.1", 0))
        address = host.format(port=silent.getsockname()[1])
        with pytest.raises(InputError, match=re.escape(f"answers at {address}: ")):
            RayCluster(address)


def test_run_on_ray_without_ray_says_what_to_install(
    vram_search_without_training: Callable[..., Any],
    write_study: WriteStudy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = vram_search_without_training("run", write_study(), "--on", "ray")
    assert done.returncode == 2
    assert "pip install 'vram-search[ray]'" in done.stdout


def without_training(job: WorkerJob) -> WorkerEnd:
    """The work of a node, with tests/fake_trainer.py; runs in a process of Ray."""
    process.COMMAND = FAKE_TRAINER
    return run_worker(job, FakeListener())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.name == "nt", reason="a test cluster of Ray needs Linux")
def test_study_on_ray_survives_the_death_of_a_node(
    url: str, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    utils = pytest.importorskip("ray.cluster_utils", reason="ray is not installed")
    from vram_search.worker.ray_cluster import RayCluster

    monkeypatch.setenv("STAGE_SECONDS", "2")  # of each trial, before and after its probe
    node = {"num_cpus": 1, "num_gpus": 1}
    nodes = utils.Cluster(initialize_head=True, head_node_args=node)
    second, listener = nodes.add_node(**node), Listener()
    try:
        with (
            closing(RayCluster(nodes.address, without_training)) as cluster,
            closing(open_store(url, create=True)) as store,
            ThreadPoolExecutor() as pool,
        ):
            assert cluster.gpus() == 2
            run = pool.submit(run_on_cluster, prepared, StopRule(24), listener, cluster)
            while len(workers_of(store.engine)) < 2 or not store.trials(1):
                assert not run.done(), run.result()
                time.sleep(0.5)
            time.sleep(3)
            nodes.remove_node(second, allow_graceful=False)
            nodes.add_node(**node)
            assert run.result() == "24 trials are finished"
    finally:
        nodes.shutdown()
    with closing(open_store(url, create=False)) as store:
        trials = store.trials(1)
        assert len({trial.worker_id for trial in trials}) >= 3, "the worker was started again"
    assert all(trial.outcome for trial in trials)
    repeated = {trial.retry_of for trial in trials}
    assert {trial.number for trial in trials if trial.outcome == "lost"} <= repeated
    assert set(listener.ended) == {trial.number for trial in trials}
