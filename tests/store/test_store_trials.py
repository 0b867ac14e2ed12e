"""Trials: started, planned, finished in one piece, and found again."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Table, text
from sqlalchemy.exc import IntegrityError

from tests.store.conftest import BOTH, store_on
from vram_search.store import (
    OUTCOMES,
    Evaluation,
    Outcome,
    StepLoss,
    Store,
    StudyRecord,
    TrialRecord,
    TrialResult,
    tables,
)
from vram_search.units import GIB

NAN, INF = float("nan"), float("inf")
FULL_RESULT = TrialResult(
    "complete",
    eval_loss=1.25,
    eval_loss_step=40,
    last_eval_loss=1.5,
    own_cutoff_eval_loss=1.125,
    bits_per_byte=0.5,
    measured={"required_bytes": 5 * GIB, "parts": {"weights": 2 * GIB}},
    seconds={"load": 2.5, "train": 61.0},
    steps_done=60,
    steps_total=60,
    trainable_parameters=3_000_000_000,
    versions={"torch": "2.9"},
    device="NVIDIA H200",
    error={"stage": "export", "message": "disk"},
    adapter_path="/tmp/adapter",
    step_losses=[StepLoss(1, 2.5, 1e-4, 0.75), StepLoss(2, 2.25, 2e-4, 0.5)],
    evaluations=[
        Evaluation(20, 1 / 3, 1.5, 1.375, 0.625, [3.0, 4.5], 1.5),
        Evaluation(40, 2 / 3, 1.25, 1.125, 0.5, [2.5, 4.0], 1.75),
    ],
)


@pytest.fixture(params=BOTH)
def store(request: pytest.FixtureRequest, file: Path) -> Iterator[Store]:
    """The contract holds on every database."""
    yield from store_on(request.param, request, file)


def start(store: Store, study: StudyRecord, number: int = 0) -> int:
    return store.start_trial(study.id, number, {"lora_rank": 8}, seed=number, data_hash="d1")


def finish(store: Store, study: StudyRecord, number: int, result: TrialResult) -> int:
    trial_id = start(store, study, number)
    store.finish_trial(trial_id, result)
    return trial_id


def found(store: Store, study: StudyRecord, number: int = 0) -> TrialRecord:
    trial = store.trial(study.id, number)
    assert trial is not None
    return trial


@pytest.mark.parametrize(
    ("record", "table", "extra"),
    [
        (StudyRecord, tables.studies, set()),
        (TrialRecord, tables.trials, set()),
        (StepLoss, tables.step_losses, {"trial_id"}),
        (Evaluation, tables.evaluations, {"trial_id"}),
    ],
)
def test_record_has_a_field_for_every_column(record: type, table: Table, extra: set[str]) -> None:
    assert {field.name for field in fields(record)} - {"damaged"} == (set(table.c.keys()) - extra)


def test_started_trial_is_running(store: Store, study: StudyRecord) -> None:
    before = datetime.now(UTC)
    trial_id = store.start_trial(study.id, 4, {"lora_rank": 8}, 7, "d2", retry_of=3)
    trial = found(store, study, 4)
    assert trial.id == trial_id
    assert trial.outcome is None
    assert (trial.hyperparameters, trial.seed, trial.data_hash) == ({"lora_rank": 8}, 7, "d2")
    assert trial.retry_of == 3
    assert before <= trial.started_at <= datetime.now(UTC)
    assert trial.finished_at is None
    assert store.running_trials(study.id) == [trial]


def test_later_plan_replaces_the_first(store: Store, study: StudyRecord) -> None:
    trial_id = start(store, study)
    store.record_plan(trial_id, {"micro": 4}, {"required_bytes": 9 * GIB})
    store.record_plan(trial_id, {"micro": 2}, {"required_bytes": 5 * GIB, "parts": {"a": 1}})
    store.record_stage(trial_id, "probe")
    trial = found(store, study)
    assert trial.plan == {"micro": 2}
    assert trial.predicted == {"required_bytes": 5 * GIB, "parts": {"a": 1}}
    assert trial.predicted_required_bytes == 5 * GIB
    assert trial.stage == "probe"


def test_finished_trial_comes_back_whole(store: Store, study: StudyRecord) -> None:
    trial_id = finish(store, study, 0, FULL_RESULT)
    trial = found(store, study)
    rows = {"step_losses", "evaluations"}
    for name in {field.name for field in fields(TrialResult)} - rows:
        assert getattr(trial, name) == getattr(FULL_RESULT, name), name
    assert trial.measured_required_bytes == 5 * GIB
    assert trial.finished_at is not None and trial.finished_at >= trial.started_at
    assert store.step_losses(trial_id) == FULL_RESULT.step_losses
    assert store.evaluations(trial_id) == FULL_RESULT.evaluations
    assert store.running_trials(study.id) == []


def test_nonfinite_numbers_are_stored_as_null(store: Store, study: StudyRecord) -> None:
    trial_id = start(store, study)
    store.record_plan(trial_id, {"margin": INF}, {"parts": {"logits": NAN}})
    store.finish_trial(
        trial_id,
        TrialResult(
            "diverged",
            eval_loss=NAN,
            last_eval_loss=-INF,
            measured={"nested": [1.0, {"deep": NAN}], "tuple": (INF, 2)},
            step_losses=[StepLoss(1, NAN, 1e-4, INF)],
            evaluations=[Evaluation(1, 0.5, INF, NAN, NAN, [1.0, NAN], 1.0)],
        ),
    )
    trial = found(store, study)
    assert (trial.eval_loss, trial.last_eval_loss) == (None, None)
    assert trial.plan == {"margin": None}
    assert trial.predicted == {"parts": {}}
    assert trial.measured == {"nested": [1.0, {"deep": None}], "tuple": [None, 2]}
    assert store.step_losses(trial_id) == [StepLoss(1, None, 1e-4, None)]
    assert store.evaluations(trial_id) == [Evaluation(1, 0.5, None, None, None, [1.0, None], 1.0)]
    query = text("SELECT CAST(measured AS TEXT), error FROM vs_trials")
    with store.engine.connect() as connection:
        stored, error = connection.execute(query).one()
    assert json.loads(stored, parse_constant=pytest.fail) == trial.measured
    assert error is None


@pytest.mark.parametrize(
    "bad",
    [
        TrialResult("complete", evaluations=[Evaluation(1, 0.5, 1.0), Evaluation(1, 0.5, 1.0)]),
        TrialResult("complete", evaluations=[Evaluation(1, NAN, 1.0)]),
        TrialResult("complete", step_losses=[StepLoss(1, 1.0), StepLoss(1, 1.0)]),
        TrialResult("splendid"),  # type: ignore[arg-type]
    ],
    ids=["same evaluation twice", "evaluation at no fraction", "same step twice", "outcome"],
)
def test_result_with_a_bad_row_leaves_the_trial_running(
    store: Store, study: StudyRecord, bad: TrialResult
) -> None:
    trial_id = start(store, study)
    before = found(store, study)
    with pytest.raises(IntegrityError):
        store.finish_trial(trial_id, bad)
    assert found(store, study) == before
    assert store.step_losses(trial_id) == []
    assert store.evaluations(trial_id) == []
    store.finish_trial(trial_id, FULL_RESULT)
    assert found(store, study).outcome == "complete"


def test_finished_trial_is_never_overwritten(store: Store, study: StudyRecord) -> None:
    trial_id = finish(store, study, 0, FULL_RESULT)
    before = found(store, study)
    with pytest.raises(RuntimeError, match="finished already"):
        store.finish_trial(trial_id, TrialResult("lost"))
    with pytest.raises(RuntimeError, match="finished already"):
        store.record_plan(trial_id, {}, {})
    with pytest.raises(RuntimeError, match="finished already"):
        store.record_stage(trial_id, "train")
    assert found(store, study) == before
    assert store.step_losses(trial_id) == FULL_RESULT.step_losses


def test_number_is_unique_within_a_study_only(store: Store, study: StudyRecord) -> None:
    other = store.create_study("other", {}, "d1", {}, {})
    start(store, study, 0)
    start(store, other, 0)
    with pytest.raises(IntegrityError):
        start(store, study, 0)
    assert [len(store.trials(item.id)) for item in (study, other)] == [1, 1]


def test_trials_come_in_number_order_and_by_outcome(store: Store, study: StudyRecord) -> None:
    start(store, study, 9)
    finish(store, study, 5, TrialResult("oom"))
    finish(store, study, 2, TrialResult("complete"))
    finish(store, study, 3, TrialResult("oom"))

    def numbers(outcomes: Collection[Outcome] | None = None) -> list[int]:
        return [trial.number for trial in store.trials(study.id, outcomes)]

    assert numbers() == [2, 3, 5, 9]
    assert numbers(["oom"]) == [3, 5]
    assert numbers({"oom", "complete"}) == [2, 3, 5]
    assert numbers([]) == []
    assert store.trial(study.id, 4) is None


def test_every_outcome_is_accepted_and_counted(store: Store, study: StudyRecord) -> None:
    assert set(store.outcome_counts(study.id).values()) == {0}
    for number, outcome in enumerate(OUTCOMES):
        finish(store, study, number, TrialResult(outcome))
    finish(store, study, 20, TrialResult("oom"))
    start(store, study, 21)
    expected = {outcome: 1 for outcome in OUTCOMES} | {"oom": 2, "running": 1}
    assert store.outcome_counts(study.id) == expected
    assert sum(store.outcome_counts(study.id + 1).values()) == 0


def test_top_trials_are_complete_ones_with_a_loss_lowest_first(
    store: Store, study: StudyRecord
) -> None:
    finish(store, study, 0, TrialResult("complete", eval_loss=1.5))
    finish(store, study, 1, TrialResult("complete", eval_loss=NAN))
    finish(store, study, 2, TrialResult("pruned", eval_loss=1.0))
    finish(store, study, 3, TrialResult("complete", eval_loss=1.25))
    finish(store, study, 4, TrialResult("complete", eval_loss=1.5))
    start(store, study, 5)
    other = store.create_study("other", {}, "d1", {}, {})
    finish(store, other, 6, TrialResult("complete", eval_loss=0.5))
    assert [trial.number for trial in store.top_trials(study.id)] == [3, 0, 4]
    assert [trial.number for trial in store.top_trials(study.id, limit=2)] == [3, 0]


def test_measured_bytes_decide_over_predicted_ones(store: Store, study: StudyRecord) -> None:
    for number, (predicted, measured) in enumerate([(4, 9), (9, 4), (4, None), (None, None)]):
        trial_id = start(store, study, number)
        store.record_plan(trial_id, {}, {"required_bytes": predicted and predicted * GIB})
        bytes_found = {"required_bytes": measured * GIB} if measured else None
        store.finish_trial(
            trial_id, TrialResult("complete", eval_loss=1.0 + number, measured=bytes_found)
        )
    fitting = store.top_trials(study.id, None, max_required_bytes=4 * GIB)
    assert [trial.number for trial in fitting] == [1, 2]
    assert len(store.top_trials(study.id, None, None)) == 4


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_trials_round_trip(store: Store, study: StudyRecord, count: int) -> None:
    for number in range(count):
        finish(store, study, number, TrialResult("complete", eval_loss=2 - number / 1000))
    assert [trial.number for trial in store.trials(study.id)] == list(range(count))
    best = store.top_trials(study.id, limit=3)
    assert [trial.number for trial in best] == [count - 1, count - 2, count - 3]
    assert best[0].eval_loss == 2 - (count - 1) / 1000
    assert store.outcome_counts(study.id)["complete"] == count
