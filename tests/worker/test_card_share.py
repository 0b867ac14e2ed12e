"""Small studies share a card: what each takes, who may start, and what a neighbour leaves."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.factories import FakeListener
from vram_search.answers.queue import add_study
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.gpu import FakeReader, GpuDevice, GpuSample
from vram_search.models import find_shape
from vram_search.spec import StudySpec, load_study
from vram_search.store import Store
from vram_search.store.location import study_folder
from vram_search.store.queue import QueueEntry, StudyQueue
from vram_search.units import GIB
from vram_search.web.scheduler import Scheduler, last_lines, output_file
from vram_search.worker import queue_place
from vram_search.worker.budget import Budget
from vram_search.worker.card_share import CardPart, card_part
from vram_search.worker.queue_place import QueuePlace, study_locked, take_place

WriteStudy = Callable[..., Path]
DEVICE = GpuDevice(0, "GPU-1", "NVIDIA H200", 140 * GIB, "580", "13.0", "9.0", False, None)
SMALL: dict[str, Any] = {
    "model": {"weights": "random", "shape": "qwen2.5-0.5b"},
    "card": "h200-141gb",
    "search_space": {
        "lora_target": ["all"],
        "lora_rank": [8, 16],
        "cutoff_len": [256],
        "batch_size": [4],
        "learning_rate": {"min": 1e-5, "max": 1e-3},
    },
}


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)


@pytest.fixture
def small(home: Path, write_study: WriteStudy) -> StudySpec:
    return load_study(write_study(**SMALL))


def test_small_study_takes_a_part_of_a_large_card(small: StudySpec) -> None:
    part = card_part(small, DEVICE)
    assert part is not None
    assert GIB < part.bytes < 20 * GIB
    assert part.room_bytes == DEVICE.total_bytes - small.card.reserve_bytes


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel_trials": "auto"},
        {"plan": {"skip_infeasible": False}},
        {"model": {"model_name_or_path": "nobody/not-on-this-machine"}},
    ],
    ids=["trials at once", "the card decides", "model elsewhere"],
)
def test_study_whose_bytes_are_not_known_takes_the_whole_card(
    home: Path, write_study: WriteStudy, changes: dict[str, Any]
) -> None:
    assert card_part(load_study(write_study(**{**SMALL, **changes})), DEVICE) is None


def test_study_that_keeps_the_card_busy_takes_the_whole_card(
    home: Path, write_study: WriteStudy
) -> None:
    space = SMALL["search_space"] | {"cutoff_len": [4096], "batch_size": [64]}
    model = {"weights": "random", "shape": "qwen2.5-7b"}
    busy = write_study(**{**SMALL, "search_space": space, "model": model})
    assert card_part(load_study(busy), DEVICE) is None


def entry(card_bytes: int | None) -> QueueEntry:
    values = dict.fromkeys(QueueEntry.__annotations__)
    return QueueEntry(**{**values, "card_bytes": card_bytes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("running", "fits"),
    [([10], True), ([10, 21], False), ([10, None], False), ([1, 1, 1], True), ([1] * 4, False)],
)
def test_studies_share_a_card_if_their_bytes_fit_together(
    running: list[int | None], fits: bool
) -> None:
    assert CardPart(20, 50).fits_beside([entry(size) for size in running]) == fits


def test_host_without_cores_for_a_second_training_runs_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert not CardPart(20, 50).fits_beside([entry(1)])


@contextmanager
def running(store: Store, url: str, card_bytes: int | None) -> Iterator[None]:
    """Another study that runs on the card."""
    queue = StudyQueue(store.engine)
    with study_locked(study_folder(url, "other")):
        owner: dict[str, Any] = {"host": platform.node(), "device": DEVICE.uuid, "pid": 1}
        other = queue.add("other", "", is_detached=False, **owner)
        assert queue.claim(other.id, lambda entries: True, card_bytes=card_bytes, **owner)
        yield


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FakeReader(DEVICE, [GpuSample(0.0, GIB, GIB)])
    monkeypatch.setattr(queue_place, "open_reader", lambda: reader)


def test_run_starts_beside_a_study_that_leaves_room(
    store: Store, url: str, small: StudySpec, on_a_gpu: None
) -> None:
    with running(store, url, 10 * GIB), take_place(store, url, small, print) as place:
        assert place.neighbour_bytes == 10 * GIB
        own = StudyQueue(store.engine).entry(place.entry_id)
        assert own.state == "running"
        assert place.part is not None and own.card_bytes == place.part.bytes


def test_run_waits_for_a_study_that_leaves_no_room(
    store: Store, url: str, small: StudySpec, on_a_gpu: None
) -> None:
    queue = StudyQueue(store.engine)
    part = card_part(small, DEVICE)
    for taken in (139 * GIB, None):
        with running(store, url, taken):
            place = QueuePlace(queue, 0, url, DEVICE.uuid, part=part)
            assert "study other holds the card" in place._who_is_ahead(queue.entries())
        for one in queue.entries():
            queue.end(one.id, "finished", "")


def test_budget_leaves_a_neighbour_what_it_has_not_allocated_yet(small: StudySpec) -> None:
    limit = MemoryBudget.of(small.card, find_shape("qwen2.5-0.5b"))
    reader = FakeReader(DEVICE, [GpuSample(0.0, GIB, GIB)])
    alone = Budget.at_start(limit, reader, FakeListener().note)
    beside = Budget.at_start(limit, reader, FakeListener().note, neighbour_bytes=40 * GIB)
    assert beside.first_bytes == 100 * GIB - limit.memory.context_bytes < alone.first_bytes


@pytest.mark.parametrize(
    ("hours", "until_hours", "shorter"),
    [
        (2.0, None, 2.0),
        (None, 30.0, 30.0),
        (2.0, 30.0, 2.0),
        (40.0, 30.0, 30.0),
        (None, None, None),
    ],
)
def test_service_starts_a_study_with_the_shorter_of_its_limits(
    store: Store,
    url: str,
    small: StudySpec,
    hours: float | None,
    until_hours: float | None,
    shorter: float | None,
) -> None:
    until = None if until_hours is None else datetime.now(UTC) + timedelta(hours=until_hours)
    entry = add_study(store, small, hours=hours, until=until)
    code = "import sys; print(*sys.argv)"
    scheduler = Scheduler(store, url, (sys.executable, "-c", code))
    scheduler._start(StudyQueue(store.engine), entry)
    scheduler.children[entry.id].wait()
    (passed,) = last_lines(output_file(url, entry.id))
    _, has_hours, given = passed.partition("--hours ")
    assert bool(has_hours) == (shorter is not None)
    if shorter is not None:
        assert float(given.split()[0]) == pytest.approx(shorter, abs=0.2)


@pytest.mark.parametrize(("taken", "starts"), [(10 * GIB, True), (139 * GIB, False), (None, False)])
def test_service_starts_a_second_study_if_it_fits_beside_the_first(
    store: Store, url: str, small: StudySpec, taken: int | None, starts: bool
) -> None:
    second = add_study(store, small)
    scheduler = Scheduler(store, url)
    with running(store, url, taken):
        found = scheduler._next(StudyQueue(store.engine), DEVICE)
    assert (found is not None and found.id == second.id) == starts


def test_full_disk_does_not_end_the_service_of_the_queue(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler, steps = Scheduler(store, url), [OSError(28, "No space left on device")] * 2

    def step(device: object) -> None:
        if not steps:
            scheduler.stop()
            return
        raise steps.pop()

    monkeypatch.setattr(scheduler, "step", step)
    monkeypatch.setattr("vram_search.web.scheduler.POLL_SECONDS", 0)
    scheduler.run()
    assert capsys.readouterr().err.count("No space left on device") == 1
