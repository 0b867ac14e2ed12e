"""The step-time model follows what this device's trials took, and comes back with the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.factories import make_point
from vram_search.data import Example, Rows
from vram_search.estimate import plans
from vram_search.estimate.step_time import StepTimeModel, speed_here
from vram_search.resources import shipped
from vram_search.spec import Card, MemoryPlan, PlanPins, load_shape
from vram_search.spec.card import load_card
from vram_search.store import Outcome, Store, StudyRecord, TrialResult
from vram_search.worker.step_time import approximate_row_tokens, corrected, learnt_step_time

SHAPE = load_shape(shipped("configs", "models", "qwen2.5-3b"))
CARD = Card.model_validate(load_card("rtx-4090-24gb"))
DEVICE = "NVIDIA GeForce RTX 4090"
PLAIN = StepTimeModel(speed_here(DEVICE, CARD))
ROW_TOKENS = (*range(100, 120), 2000)
POINT = make_point()
CHECKPOINTED = MemoryPlan(
    per_device_train_batch_size=2, gradient_accumulation_steps=4, gradient_checkpointing=True
)
PLAIN_PLAN = CHECKPOINTED.model_copy(update={"gradient_checkpointing": False})
Record = Callable[..., None]


@pytest.fixture
def record(store: Store, study: StudyRecord) -> Record:
    """Records a trial with what was measured of it."""

    def record_(
        measured: dict[str, Any] | None,
        plan: MemoryPlan | None = CHECKPOINTED,
        outcome: Outcome = "complete",
        device: str = DEVICE,
    ) -> None:
        number = len(store.trials(study.id))
        trial = store.start_trial(study.id, number, POINT.model_dump(), seed=1, data_hash="d1")
        if plan is not None:
            store.record_plan(trial, plan.model_dump(mode="json"), {})
        store.finish_trial(trial, TrialResult(outcome, measured=measured, device=device))

    return record_


def pace_of(store: Store, study: StudyRecord) -> StepTimeModel:
    return learnt_step_time(SHAPE, store.trials(study.id), DEVICE, CARD, ROW_TOKENS)


def predicted(plan: MemoryPlan, step_time: StepTimeModel = PLAIN) -> float:
    """Seconds of a step as the planner predicts them."""
    pins = PlanPins(
        per_device_train_batch_size=plan.per_device_train_batch_size,
        gradient_checkpointing=plan.gradient_checkpointing,
    )
    (planned,) = plans(
        SHAPE, POINT, CARD, pins, eval_cutoff_len=512, step_time=step_time, row_tokens=ROW_TOKENS
    )
    return planned.step_seconds


def test_study_without_trials_goes_by_the_data_sheet(store: Store, study: StudyRecord) -> None:
    assert pace_of(store, study) == PLAIN


def test_prediction_moves_to_what_the_trials_took(
    store: Store, study: StudyRecord, record: Record
) -> None:
    measured = 3 * predicted(CHECKPOINTED)
    left = [abs(predicted(CHECKPOINTED, pace_of(store, study)) / measured - 1)]
    for _ in range(8):
        record({"step_seconds": measured})
        left.append(abs(predicted(CHECKPOINTED, pace_of(store, study)) / measured - 1))
    assert left == sorted(left, reverse=True)
    assert left[0] == pytest.approx(2 / 3)
    assert left[-1] < 0.05


def test_kind_that_is_slower_than_the_others_is_learnt_as_such(
    store: Store, study: StudyRecord, record: Record
) -> None:
    for _ in range(6):
        record({"step_seconds": predicted(CHECKPOINTED)})
        record({"step_seconds": 2 * predicted(PLAIN_PLAN)}, PLAIN_PLAN)
    step_time = pace_of(store, study)
    assert predicted(PLAIN_PLAN) < predicted(CHECKPOINTED)
    assert predicted(PLAIN_PLAN, step_time) > predicted(CHECKPOINTED, step_time)


def test_one_trial_that_was_disturbed_changes_little() -> None:
    kind = (True, False)
    calm = corrected(PLAIN, [(kind, 1.2)] * 6)
    disturbed = corrected(PLAIN, [(kind, 1.2)] * 6 + [(kind, 50.0)])
    assert disturbed.factor == pytest.approx(calm.factor, rel=0.03)


def test_probe_speaks_for_a_trial_of_one_step_at_its_longest_rows(
    store: Store, study: StudyRecord, record: Record
) -> None:
    whole = MemoryPlan(
        per_device_train_batch_size=8, gradient_accumulation_steps=1, gradient_checkpointing=True
    )
    pins = PlanPins(per_device_train_batch_size=8, gradient_checkpointing=True)
    (planned,) = plans(SHAPE, POINT, CARD, pins, eval_cutoff_len=512)
    assert planned.step_seconds > 1.2 * predicted(whole), "rows of 512 tokens, where they are cut"
    record({"probe_step_seconds": 2 * planned.step_seconds}, whole)
    assert pace_of(store, study).factor == pytest.approx(2**0.5), "one trial weighs half"


@pytest.mark.parametrize(
    "trial",
    [
        {"measured": {"step_seconds": 90.0}, "device": "NVIDIA GeForce RTX 3060"},
        {"measured": {"step_seconds": 90.0}, "outcome": "oom"},
        {"measured": {"step_seconds": None}},
        {"measured": None, "outcome": "lost"},
        {"measured": {"step_seconds": 90.0}, "plan": None},
    ],
    ids=["other device", "out of memory", "no second step", "lost", "no plan"],
)
def test_trial_that_says_nothing_of_this_devices_pace_is_left_out(
    store: Store, study: StudyRecord, record: Record, trial: dict[str, Any]
) -> None:
    record(**trial)
    assert pace_of(store, study) == PLAIN


def test_row_lengths_are_scaled_by_the_longest_that_was_counted() -> None:
    texts = ["a" * 100, "a" * 250, "a" * 1000, ""]
    rows = tuple(Example((("user", text), ("assistant", ""))) for text in texts)
    assert approximate_row_tokens(Rows(rows, (), "d1"), 300) == (30, 75, 300, 1)
