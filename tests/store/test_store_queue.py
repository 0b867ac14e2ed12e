"""The queue in the store: order, states, requests, and the events that report them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest

from tests.store.conftest import BOTH, store_on
from vram_search.errors import InputError, NotFoundError, TooLateError
from vram_search.store import Store, StudyRecord, TrialResult
from vram_search.store.events import events_after, last_event_id
from vram_search.store.progress import Progress, progress_of, record_progress
from vram_search.store.queue import OPEN_STATES, STATES, QueueEntry, StudyQueue


@pytest.fixture(params=BOTH)
def store(request: pytest.FixtureRequest, file: Path) -> Iterator[Store]:
    """The contract holds on every database."""
    yield from store_on(request.param, request, file)


@pytest.fixture
def queue(store: Store) -> StudyQueue:
    return StudyQueue(store.engine)


def add(queue: StudyQueue, *names: str) -> list[QueueEntry]:
    return [queue.add(name, f"study: {name}\n", is_detached=True) for name in names]


def names(queue: StudyQueue) -> list[str]:
    return [entry.study for entry in queue.entries()]


def run(queue: StudyQueue, entry: QueueEntry) -> None:
    assert queue.claim(entry.id, lambda entries: True, host="h", device="cpu", pid=1)


def test_studies_run_in_the_order_in_which_they_were_added(queue: StudyQueue) -> None:
    add(queue, "a", "b", "c")
    assert names(queue) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("moved", "place", "order"), [(2, 1, "cab"), (0, 3, "bca"), (1, 99, "acb"), (1, 2, "abc")]
)
def test_entry_moves_to_a_place(queue: StudyQueue, moved: int, place: int, order: str) -> None:
    entries = add(queue, "a", "b", "c")
    queue.move(entries[moved].id, place)
    assert names(queue) == list(order)


def test_running_study_stays_first_when_others_move(queue: StudyQueue) -> None:
    a, _, c = add(queue, "a", "b", "c")
    run(queue, a)
    queue.move(c.id, 1)
    assert names(queue) == ["a", "c", "b"]
    with pytest.raises(TooLateError, match="study a is running"):
        queue.move(a.id, 2)


def test_claim_starts_a_study_once_and_only_if_it_may(queue: StudyQueue) -> None:
    (entry,) = add(queue, "a")
    assert not queue.claim(entry.id, lambda entries: False)
    assert queue.entry(entry.id).state == "queued"
    run(queue, entry)
    assert queue.entry(entry.id).state == "running"
    assert not queue.claim(entry.id, lambda entries: True)


def test_study_that_many_claim_at_once_starts_once(queue: StudyQueue) -> None:
    (entry,) = add(queue, "a")
    together = Barrier(8)

    def claim(pid: int) -> bool:
        own = StudyQueue(queue.engine)
        together.wait()

        def may_start(entries: Sequence[QueueEntry]) -> bool:
            time.sleep(0.02)
            return all(entry.state == "queued" for entry in entries)

        return own.claim(entry.id, may_start, host="h", device="cpu", pid=pid)

    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(claim, range(8)))
    assert claimed.count(True) == 1
    assert queue.entry(entry.id).pid == claimed.index(True)


@pytest.mark.parametrize("request_", ["pause", "stop", "cancel"])
def test_running_study_keeps_running_and_knows_the_request(
    queue: StudyQueue, request_: str
) -> None:
    (entry,) = add(queue, "a")
    run(queue, entry)
    asked = queue.ask(entry.id, request_)  # type: ignore[arg-type]
    assert (asked.state, asked.request) == ("running", request_)


def test_waiting_study_is_paused_and_resumed_at_its_place(queue: StudyQueue) -> None:
    a, _ = add(queue, "a", "b")
    assert queue.ask(a.id, "pause").state == "paused"
    with pytest.raises(TooLateError, match="paused already"):
        queue.ask(a.id, "pause")
    assert queue.resume(a.id).state == "queued"
    assert names(queue) == ["a", "b"]


def test_ended_study_takes_no_request(queue: StudyQueue) -> None:
    (entry,) = add(queue, "a")
    assert queue.ask(entry.id, "cancel").state == "cancelled"
    with pytest.raises(TooLateError, match="has ended: it is cancelled"):
        queue.ask(entry.id, "stop")
    with pytest.raises(TooLateError, match="has ended: it is cancelled"):
        queue.resume(entry.id)
    assert queue.entries() == []
    assert [one.study for one in queue.entries(STATES)] == ["a"]


def test_end_of_a_run_is_written_once(queue: StudyQueue) -> None:
    (entry,) = add(queue, "a")
    run(queue, entry)
    queue.end(entry.id, "finished", "3 trials are finished")
    queue.end(entry.id, "failed", "too late")
    ended = queue.entry(entry.id)
    assert (ended.state, ended.message, ended.pid) == ("finished", "3 trials are finished", None)
    assert ended.ended_at is not None


def test_study_of_the_service_is_in_the_queue_once(queue: StudyQueue) -> None:
    (entry,) = add(queue, "a")
    with pytest.raises(TooLateError, match=f"in the queue already .entry {entry.id}"):
        add(queue, "a")
    queue.ask(entry.id, "cancel")
    add(queue, "a")


def test_cancel_is_not_taken_back_by_a_later_request(queue: StudyQueue) -> None:
    (entry,) = add(queue, "a")
    run(queue, entry)
    assert queue.ask(entry.id, "stop").request == "stop"
    assert queue.ask(entry.id, "cancel").request == "cancel"
    assert queue.ask(entry.id, "cancel").request == "cancel"
    for request in ("pause", "stop"):
        with pytest.raises(TooLateError, match="study a is being cancelled"):
            queue.ask(entry.id, request)
    assert queue.entry(entry.id).request == "cancel"


def test_new_limit_of_time_is_compared_with_the_one_that_stays(queue: StudyQueue) -> None:
    now = datetime.now(UTC)
    entry = queue.add("a", "", is_detached=True, not_before=now + timedelta(hours=2))
    with pytest.raises(InputError, match="is not after not_before"):
        queue.change(entry.id, until=now + timedelta(hours=1))
    changed = queue.change(entry.id, until=now + timedelta(hours=1), not_before=None)
    assert changed.not_before is None


def test_run_of_a_terminal_that_was_paused_is_resumed_by_the_service(queue: StudyQueue) -> None:
    entry = queue.add("a", "", is_detached=False, host="h", pid=1)
    run(queue, entry)
    queue.ask(entry.id, "pause")
    queue.end(entry.id, "paused", "it was paused")
    (second,) = add(queue, "a")
    with pytest.raises(TooLateError, match="in the queue already"):
        queue.resume(entry.id)
    queue.ask(second.id, "cancel")
    assert queue.resume(entry.id).is_detached
    assert queue.entry(entry.id).state == "queued"


def test_study_is_due_when_its_time_has_come(queue: StudyQueue) -> None:
    now = datetime.now(UTC)
    later = queue.add("a", "", is_detached=True, not_before=now + timedelta(hours=1))
    assert not later.is_due(now)
    assert later.is_due(now + timedelta(hours=2))
    queue.change(later.id, not_before=None)
    assert queue.entry(later.id).is_due(now)


def test_unknown_entry_is_named(queue: StudyQueue) -> None:
    with pytest.raises(NotFoundError, match="the queue has no entry 7"):
        queue.ask(7, "stop")


def test_every_change_is_an_event_with_a_higher_id(queue: StudyQueue, study: StudyRecord) -> None:
    store = Store(queue.engine)
    before = last_event_id(store.engine)
    (entry,) = add(queue, "a")
    run(queue, entry)
    trial = store.start_trial(study.id, 0, {}, seed=1, data_hash="d1")
    store.record_plan(trial, {}, {"required_bytes": 5})
    store.record_stage(trial, "train")
    store.finish_trial(trial, TrialResult("complete", eval_loss=1.5))
    events = events_after(store.engine, before)
    assert [event.kind for event in events] == [
        *("queue_changed", "queue_changed", "trial_started"),
        *("trial_planned", "trial_stage", "trial_ended"),
    ]
    assert [event.id for event in events] == sorted({event.id for event in events})
    assert events[1].data["state"] == "running"
    assert events[-1].data == {"outcome": "complete", "eval_loss": 1.5}
    assert events_after(store.engine, events[2].id) == events[3:]


def test_event_of_a_change_that_failed_is_not_written(store: Store, study: StudyRecord) -> None:
    trial = store.start_trial(study.id, 0, {}, seed=1, data_hash="d1")
    store.finish_trial(trial, TrialResult("complete"))
    before = last_event_id(store.engine)
    with pytest.raises(RuntimeError):
        store.finish_trial(trial, TrialResult("complete"))
    assert last_event_id(store.engine) == before


def test_progress_is_replaced_and_ends_with_the_trial(store: Store, study: StudyRecord) -> None:
    trial = store.start_trial(study.id, 0, {}, seed=1, data_hash="d1")
    assert progress_of(store.engine, trial) is None
    for step in (1, 2):
        record_progress(store.engine, trial, Progress("train", step, 9, [(step, float("nan"))]))
    found = progress_of(store.engine, trial)
    assert found is not None
    assert (found.step, list(map(tuple, found.losses))) == (2, [(2, None)])
    store.finish_trial(trial, TrialResult("complete"))
    assert progress_of(store.engine, trial) is None


def test_open_states_are_those_that_have_not_ended() -> None:
    assert set(STATES) - set(OPEN_STATES) == {"finished", "failed", "cancelled"}
