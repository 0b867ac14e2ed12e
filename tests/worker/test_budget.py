"""A run's budget is the one that `vram-search estimate` prints, calibrated cards included."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage

from bench.tiny import TINY_SPACE
from tests.factories import PRUNED, FakeListener, FakeTrainer, Script, make_ready
from vram_search.errors import InputError
from vram_search.estimate import check_card_holds_base, estimate_base_bytes
from vram_search.estimate.calibration import Calibration, save_calibration
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.gpu import GpuDevice, GpuReader, GpuSample
from vram_search.gpu.fake import FakeReader
from vram_search.protocol import LoadJob
from vram_search.spec import load_study
from vram_search.spec.card_memory import CardMemory
from vram_search.store import TrialResult, open_store, sqlite_url
from vram_search.units import GIB, MIB
from vram_search.worker import context, run, stop_rule
from vram_search.worker.budget import NOTICED_BYTES, Budget
from vram_search.worker.open_study import open_study
from vram_search.worker.prepare import Prepared, prepare

Cli = Callable[..., subprocess.CompletedProcess[str]]
WriteStudy = Callable[..., Path]

TOTAL = 16 * GIB
FIRST = 15 * GIB - 500 * MIB
CARD = {
    "name": "toy",
    "total_bytes": TOTAL,
    "reserve_bytes": GIB,
    "context_bytes": 500 * MIB,
}
DEVICE = GpuDevice(0, "GPU-1", "toy", TOTAL, "580", "13.0", "12.0", False, None)
READER = FakeReader(DEVICE, [GpuSample(0.0, GIB, GIB)])


READY = make_ready(device="toy", has_gpu=False, allocated_bytes=None)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[LoadJob]:
    """A run starts no process, and each of its trials is pruned at once; what it would load."""
    jobs: list[LoadJob] = []

    def start(job: LoadJob, *_: object, **__: object) -> FakeTrainer:
        jobs.append(job)
        return FakeTrainer(repeat([PRUNED]), READY)

    monkeypatch.setattr(context, "ResidentTrainer", start)
    return jobs


def calibrate(context_bytes: int) -> None:
    save_calibration(
        Calibration(
            measured_at="2026-11-25T10:00:00+00:00",
            card_name="toy",
            total_bytes=TOTAL,
            driver="580",
            versions={},
            context_bytes=context_bytes,
            padded_context_bytes=context_bytes,
            context_source="process",
            cublas_workspace_bytes=MIB,
            cublaslt_workspace_bytes=MIB,
            allocator="as expected",
            measured_over_predicted=1.0,
        )
    )


def prepared(file: Path) -> Prepared:
    return prepare(load_study(file), lambda _note: None)


def budget_of_run(study: Prepared, home: Path, trials: int) -> Any:
    """As the last trial of a run records it."""
    run.run_study(study, stop_rule.StopRule(trials), FakeListener())
    store = open_store(sqlite_url(home / "vram-search.db"), create=False)
    record = store.study("tiny")
    assert record is not None
    predicted = store.trials(record.id)[-1].predicted
    store.close()
    return (predicted or {})["budget_bytes"]


@pytest.mark.parametrize(
    "reader",
    [pytest.param(None, marks=pytest.mark.slow, id="no GPU"), pytest.param(READER, id="GPU")],
)
def test_run_dry_run_and_estimate_have_one_budget_before_and_after_a_calibration(
    reader: GpuReader | None,
    home: Path,
    write_study: WriteStudy,
    vram_search_without_training: Cli,
    monkeypatch: pytest.MonkeyPatch,
    loads: list[LoadJob],
    rows_are_not_encoded: None,
) -> None:
    monkeypatch.setattr(context, "open_reader", lambda: reader)
    space = {name: values[:1] for name, values in TINY_SPACE.items() if name != "learning_rate"}
    file = write_study(card=CARD, budget={"trials": 2}, search_space=space)

    def answer(*words: object) -> Any:
        return json.loads(vram_search_without_training(*words, "--json").stdout)

    for trials, context_bytes in ((1, 500 * MIB), (2, 700 * MIB)):
        (plan, *_) = answer("estimate", file)["plans"]
        assert plan["budget_bytes"] == TOTAL - GIB - context_bytes
        assert answer("run", file, "--dry-run")["budget_bytes"] == plan["budget_bytes"]
        assert budget_of_run(prepared(file), home, trials) == plan["budget_bytes"]
        calibrate(700 * MIB)


def budget_at_start(study: Prepared, total_bytes: int) -> Budget:
    device = replace(DEVICE, name="NVIDIA H200", total_bytes=total_bytes)
    limit = MemoryBudget.of(study.study.card, study.shape)
    reader = FakeReader(device, [GpuSample(0.0, GIB, GIB)])
    return Budget.at_start(limit, reader, lambda note: None)


def test_larger_card_plays_the_studys_and_is_named_so(home: Path, write_study: WriteStudy) -> None:
    study = prepared(write_study(card=CARD))
    assert budget_at_start(study, 8 * TOTAL).emulated == "emulated 16 GB on NVIDIA H200"
    assert budget_at_start(study, TOTAL).emulated is None


def followed(*readings: GpuSample) -> tuple[list[int], list[str]]:
    """Budgets before each of the trials, on a card with 1 GiB reserved, and what was noted."""
    notes: list[str] = []
    at_start = GpuSample(0.0, GIB, GIB)
    memory = CardMemory(TOTAL, GIB, 500 * MIB)
    budget = Budget(FIRST, FIRST, memory, FakeReader(DEVICE, [*readings, at_start]))
    found = []
    for _ in readings:
        budget.refresh(42, notes.append)
        found.append(budget.now_bytes)
    return found, notes


def reading(others: int, ours: int | None = 5 * GIB) -> GpuSample:
    used = others + (ours or 0)
    return GpuSample(0.0, used, used, ours)


def test_budget_shrinks_while_a_neighbour_is_there_and_says_so_once() -> None:
    gone, there = reading(others=GIB // 2), reading(others=3 * GIB)
    found, notes = followed(gone, there, there, gone, gone)
    assert found == [FIRST, FIRST - 2 * GIB, FIRST - 2 * GIB, FIRST, FIRST]
    assert [note.split(":")[0] for note in notes] == [
        "other programs take 2.00 GiB of the card",
        "other programs gave back 2.00 GiB of the card",
    ]
    assert "12.51 GiB for training now" in notes[0]


def test_movement_of_a_desktop_is_not_noticed() -> None:
    found, notes = followed(reading(others=GIB + NOTICED_BYTES - 1))
    assert (found, notes) == ([FIRST], [])


def test_budget_is_kept_where_nvml_has_no_figure_for_our_process() -> None:
    found, notes = followed(reading(others=9 * GIB, ours=None))
    assert (found, notes) == ([FIRST], [])


def test_budget_is_kept_when_the_card_does_not_answer() -> None:
    reader = FakeReader(DEVICE, [reading(others=9 * GIB)], raise_at={0})
    budget = Budget(FIRST, FIRST, CardMemory(TOTAL, GIB, 500 * MIB), reader)
    budget.refresh(42, lambda note: None)
    assert budget.now_bytes == FIRST


def test_run_plans_each_trial_with_what_is_left_then(
    home: Path, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = FakeReader(DEVICE, [reading(others=GIB, ours=None)])

    script: Script = [lambda: reader.show(reading(others=3 * GIB)), PRUNED]
    trainer = FakeTrainer(repeat(script), READY, pid=42)
    monkeypatch.setattr(context, "ResidentTrainer", lambda *_, **__: trainer)
    monkeypatch.setattr(context, "open_reader", lambda: reader)
    file = write_study(card=CARD, budget={"trials": 2})
    assert budget_of_run(prepared(file), home, 2) == FIRST - 2 * GIB


def test_full_card_is_refused_and_the_database_is_closed(
    home: Path, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    monkeypatch.setattr(RDBStorage, "remove_session", lambda self: closed.append("storage"))
    monkeypatch.setattr(context, "open_reader", lambda: FakeReader(DEVICE, [reading(others=TOTAL)]))
    with pytest.raises(InputError):
        run.run_study(prepared(write_study(card=CARD)), stop_rule.StopRule(1), FakeListener())
    assert closed == ["storage"]


@pytest.mark.parametrize("pinned", [True, False])
def test_base_is_loaded_with_the_kernels_that_the_plans_name(
    home: Path, write_study: WriteStudy, loads: list[LoadJob], pinned: bool
) -> None:
    file = write_study(card=CARD, budget={"trials": 1}, plan={"enable_liger_kernel": pinned})
    budget_of_run(prepared(file), home, 1)
    store = open_store(sqlite_url(home / "vram-search.db"), create=False)
    plan = store.trials(1)[-1].plan
    store.close()
    assert plan is not None
    assert loads[-1].enable_liger_kernel is plan["enable_liger_kernel"] is pinned


def test_dry_run_judges_by_the_calibrated_budget(home: Path, write_study: WriteStudy) -> None:
    study = prepared(write_study(card=CARD))
    assert all(fits for _, _, fits in run.preview(study))
    calibrate(TOTAL - GIB - 3 * MIB)
    assert not any(fits for _, _, fits in run.preview(study))


@pytest.mark.parametrize("reader", [None, READER], ids=["no GPU", "GPU"])
@pytest.mark.usefixtures("home")
def test_dry_run_plans_with_the_kernels_that_a_run_here_would_have(
    write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch, reader: GpuReader | None
) -> None:
    monkeypatch.setattr(run, "open_reader", lambda: reader)
    monkeypatch.setattr("vram_search.estimate.planner.liger_available", lambda model_type: True)
    planned = [planned.plan for _, planned, _ in run.preview(prepared(write_study(card=CARD)))]
    assert {plan.enable_liger_kernel for plan in planned} == {reader is not None}


@pytest.mark.parametrize(
    ("measured", "slower", "fits"),
    [({"step_seconds": 1e3}, True, True), ({"required_ratio_above": 1e9}, False, False)],
    ids=["step_time", "margin"],
)
def test_dry_run_has_learnt_from_the_studys_trials(
    home: Path,
    write_study: WriteStudy,
    monkeypatch: pytest.MonkeyPatch,
    measured: dict[str, float],
    slower: bool,
    fits: bool,
) -> None:
    monkeypatch.setattr(run, "open_reader", lambda: READER)
    # One plan alone, so that its seconds compare.
    plan = {"per_device_train_batch_size": 4, "gradient_checkpointing": True}
    study = prepared(write_study(card=CARD, plan=plan))
    (point, before, _), *_ = run.preview(study)
    store = open_store(sqlite_url(home / "vram-search.db"), create=True)
    record = open_study(store, study, accept_changes=False)
    trial = store.start_trial(record.id, 0, point, seed=1, data_hash="d1")
    store.record_plan(trial, before.plan.model_dump(mode="json"), {})
    store.finish_trial(trial, TrialResult("complete", measured=measured, device=DEVICE.name))
    store.close()
    (_, after, still_fits), *_ = run.preview(study)
    assert (after.step_seconds > 2 * before.step_seconds, still_fits) == (slower, fits)


def test_base_that_the_calibrated_card_cannot_hold_is_refused(
    home: Path, write_study: WriteStudy
) -> None:
    study = prepared(write_study(card=CARD))
    check_card_holds_base(study.shape, study.study.card)
    calibrate(TOTAL - GIB - estimate_base_bytes(study.shape))
    with pytest.raises(InputError, match="too small for this base model"):
        check_card_holds_base(study.shape, study.study.card)
