"""Workers of one study: who owns a trial, and who takes over the trials of a dead worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from tests.factories import PRUNED, FakeTrainer, make_ready, run_proposal
from vram_search.errors import InputError, StoreError
from vram_search.protocol import Stage
from vram_search.search import Proposal
from vram_search.store import TrialEndedError, TrialResult
from vram_search.store.database import writing
from vram_search.store.queue import StudyQueue
from vram_search.store.runs import latest_run, start_run
from vram_search.store.tables import workers
from vram_search.store.workers import (
    add_worker,
    end_worker,
    renew_lease,
    running_owners,
    workers_of,
)
from vram_search.worker import lease
from vram_search.worker.context import RunContext
from vram_search.worker.lease import (
    STEADY_SECONDS,
    LeaseLostError,
    leased,
    living_workers,
    refuse_if_worked_on,
)
from vram_search.worker.peers import StudyPeers, take_over
from vram_search.worker.runner import TrialRunner
from vram_search.worker.stop_rule import ENDLESS, StopRule

MakeContext = Callable[..., RunContext]
TRAIN = Stage(stage="train", steps_total=1)


@pytest.fixture
def context(make_context: MakeContext) -> RunContext:
    """This worker; its trials are pruned at once."""
    return make_context(FakeTrainer([[TRAIN, PRUNED]] * 9, make_ready()))


def begin_elsewhere(context: RunContext, host: str = "elsewhere") -> tuple[int, Proposal]:
    """Another worker that has begun a trial: its id and the proposal."""
    worker_id = add_worker(context.store.engine, context.record.id, host, 1)
    proposal = context.search.ask()
    context.store.start_trial(
        context.record.id,
        proposal.number,
        proposal.hyperparameters.model_dump(mode="json"),
        seed=1,
        data_hash="d1",
        worker_id=worker_id,
        host=host,
    )
    return worker_id, proposal


def let_expire(context: RunContext, worker_id: int) -> None:
    with writing(context.store.engine) as connection:
        connection.execute(update(workers).where(workers.c.id == worker_id).values(expires_at=1.0))


def be_steady(context: RunContext) -> None:
    context.lease._steady_since -= STEADY_SECONDS


def outcomes(context: RunContext) -> list[str | None]:
    return [trial.outcome for trial in context.store.trials(context.record.id)]


def peers_of(context: RunContext, stop: StopRule = ENDLESS) -> StudyPeers:
    return StudyPeers(context, TrialRunner(context, "a card"), stop)


def test_trial_names_its_worker_and_its_machine(context: RunContext) -> None:
    trial = run_proposal(context, context.search.ask())
    assert trial.worker_id == context.lease.worker_id
    assert trial.host


def test_trial_of_a_living_worker_stays_with_it(context: RunContext) -> None:
    begin_elsewhere(context)
    be_steady(context)
    take_over(context)
    assert outcomes(context) == [None]
    assert context.search.open_numbers() == [0]


def test_trial_of_a_worker_whose_lease_has_expired_is_taken_over_and_proposed_first(
    context: RunContext,
) -> None:
    worker_id, proposal = begin_elsewhere(context)
    let_expire(context, worker_id)
    be_steady(context)
    take_over(context)
    assert outcomes(context) == ["lost"]
    again = context.search.ask()
    assert (again.retry_of, again.hyperparameters) == (proposal.number, proposal.hyperparameters)
    assert not renew_lease(context.store.engine, worker_id), "the dead worker is told so"


def test_worker_that_has_just_come_waits_before_it_calls_others_dead(context: RunContext) -> None:
    """After an outage of the database all leases have expired."""
    worker_id, _ = begin_elsewhere(context)
    let_expire(context, worker_id)
    take_over(context)
    assert outcomes(context) == [None]


def test_worker_that_was_killed_on_this_machine_is_known_as_dead_at_once(
    context: RunContext,
) -> None:
    with leased(context.store, context.record) as other:
        assert [worker.id for worker in context.lease.others()] == [other.worker_id]
        assert other._lock is not None
        other._lock.release()  # as the system does for a killed process
        assert context.lease.others() == []
        assert [worker.id for worker in context.lease.dead()] == [other.worker_id]


def test_worker_that_ended_on_a_full_disk_is_known_as_dead_at_once(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(engine: object, worker_id: int) -> None:
        raise StoreError("the disk is full", "free some space")

    with leased(context.store, context.record) as other:
        monkeypatch.setattr(lease, "end_worker", refuse)
        other.release()
        monkeypatch.undo()
        assert context.lease.others() == []
        assert [worker.id for worker in context.lease.dead()] == [other.worker_id]


def test_trial_of_a_worker_that_has_ended_is_taken_over(context: RunContext) -> None:
    worker_id, _ = begin_elsewhere(context)
    end_worker(context.store.engine, worker_id)
    assert running_owners(context.store.engine, context.record.id) == [worker_id]
    take_over(context)
    assert outcomes(context) == ["lost"]


def test_worker_that_has_lost_its_lease_leaves_the_trial_and_takes_a_new_lease(
    context: RunContext,
) -> None:
    runner, before = TrialRunner(context, "a card"), context.lease.worker_id
    proposal = context.search.ask()
    runner.begin(proposal)
    trial_id = context.store.running_trials(context.record.id)[0].id
    trainer: Any = context.trainer
    trainer.on_job = lambda job: context.store.finish_trial(trial_id, TrialResult("lost"))

    assert runner(proposal) == "lost"

    assert outcomes(context) == ["lost"], "the record of the other worker stays"
    assert context.lease.worker_id != before
    assert [w.id for w in workers_of(context.store.engine)] == [context.lease.worker_id]
    with pytest.raises(TrialEndedError):
        context.store.record_stage(trial_id, "train")


def test_queue_entry_follows_its_worker_to_a_new_lease(context: RunContext) -> None:
    queue, lease = StudyQueue(context.store.engine), context.lease
    entry = queue.add("tiny", "", is_detached=False, pid=1, worker_id=lease.worker_id)
    before = lease.worker_id
    lease.take_again()
    assert queue.entry(entry.id).worker_id == lease.worker_id != before
    queue.end(entry.id, "failed", "its process died", of_worker=before)
    assert queue.entry(entry.id).state == "queued", "another process has looked too early"


def test_heartbeat_that_finds_no_lease_ends_the_trial(context: RunContext) -> None:
    end_worker(context.store.engine, context.lease.worker_id)
    with pytest.raises(LeaseLostError):
        context.lease.renew()
    with pytest.raises(LeaseLostError):
        context.lease.check()


def test_listener_knows_the_trials_that_run_elsewhere(context: RunContext) -> None:
    begin_elsewhere(context)
    running: list[list[int]] = []
    listener: Any = context.listener
    listener.others_running = lambda trials: running.append([t.number for t in trials])
    peers = peers_of(context)
    with peers.turn():
        peers.begin(context.search.ask())
    with peers.turn():
        pass
    assert running == [[0], [0]], "its own trial is not among them"


def test_point_that_runs_elsewhere_is_not_proposed_and_fills_the_budget(
    context: RunContext,
) -> None:
    _, proposal = begin_elsewhere(context)
    peers = peers_of(context, StopRule(1))
    with peers.turn():
        assert peers.is_tried(proposal.hyperparameters)
        assert peers.must_wait(), "one trial is asked for, and it runs"
    (trial,) = context.store.running_trials(context.record.id)
    context.store.finish_trial(trial.id, TrialResult("lost"))
    with peers.turn():
        assert not peers.must_wait()
        assert not peers.is_tried(proposal.hyperparameters), "a lost trial is tried again"


def test_point_that_fits_the_card_of_another_worker_alone_is_left_to_it(
    context: RunContext,
) -> None:
    from vram_search.search.loop import run_trials
    from vram_search.store.workers import describe_worker

    point = context.search.ask().hyperparameters
    context.search.drop(0)
    context.search.enqueue_retry(point, 0)
    other = add_worker(context.store.engine, context.record.id, "large", 1)
    describe_worker(context.store.engine, other, "large card", 10**15)
    context.budget.now_bytes = 1  # nothing fits here
    left: list[bool] = []
    peers = peers_of(context)

    def is_over() -> str:
        return "enough" if left else ""

    def run_trial(proposal: Proposal) -> Any:
        left.append(proposal.retry_of is None)
        context.search.drop(proposal.number)
        return "lost"

    run_trials(context.search, run_trial, is_over, peers=peers, stop_early=False)
    assert left == [True]
    describe_worker(context.store.engine, other, "small card", 0)
    assert not peers.is_for_others(context.search.ask()), "no card is larger: it is infeasible"


def test_study_is_not_deleted_or_changed_while_a_worker_runs_it(context: RunContext) -> None:
    begin_elsewhere(context, "far away")
    assert len(living_workers(context.store, context.record)) == 2
    with pytest.raises(InputError, match="far away") as refused:
        refuse_if_worked_on(context.store, context.record, "end them first")
    assert "end them first" in refused.value.remedy


def test_run_that_another_machine_still_runs_is_not_recorded_as_killed(
    context: RunContext,
) -> None:
    store, study_id = context.store, context.record.id
    start_run(store, study_id, worker_id=add_worker(store.engine, study_id, "elsewhere", 1))
    first = latest_run(store, study_id)
    start_run(store, study_id, worker_id=context.lease.worker_id)
    from vram_search.store.database import reading
    from vram_search.store.tables import runs

    assert first is not None
    with reading(store.engine) as connection:
        ended = connection.execute(runs.select().where(runs.c.id == first.id)).one().ended_at
    assert ended is None
