"""The planner's margin follows what this card has measured, and comes back with the record."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import PRUNED, FakeTrainer, make_ready, run_proposal
from vram_search.estimate import Estimate, PlannedTrial
from vram_search.estimate.margin import margin_for
from vram_search.resources import shipped
from vram_search.spec import Hyperparameters, MemoryPlan, load_shape
from vram_search.store import (
    Outcome,
    Store,
    StudyRecord,
    TrialResult,
    open_store,
)
from vram_search.units import GIB, MIB
from vram_search.worker.context import RunContext
from vram_search.worker.margin import LIMIT_SHARE, learnt_margin, required_ratio_above

SHAPE = load_shape(shipped("configs", "models", "smollm2-135m"))
DEVICE = "NVIDIA GeForce RTX 4090"
BUDGET = 10 * GIB
PRIOR_MARGIN = margin_for(SHAPE)


@pytest.fixture
def record(store: Store, study: StudyRecord) -> Callable[..., None]:
    """Records a trial whose measured peak is `ratio` times the predicted one."""

    def record_(
        ratio: float, outcome: Outcome = "complete", device: str = DEVICE, **measured: Any
    ) -> None:
        number = len(store.trials(study.id))
        trial_id = store.start_trial(study.id, number, {}, seed=1, data_hash="d1")
        store.record_plan(trial_id, {}, {"allocated_bytes": GIB})
        measured = {"allocated_bytes": round(ratio * GIB), **measured}
        store.finish_trial(trial_id, TrialResult(outcome, measured=measured, device=device))

    return record_


def margin(store: Store, study: StudyRecord, device: str = DEVICE) -> float:
    return learnt_margin(SHAPE, store.trials(study.id), device)


def test_study_without_trials_starts_from_the_prior(store: Store, study: StudyRecord) -> None:
    assert margin(store, study) == PRIOR_MARGIN


@pytest.mark.parametrize("outcome", ["complete", "pruned"])
def test_underestimate_raises_the_margin(
    store: Store, study: StudyRecord, record: Callable[..., None], outcome: Outcome
) -> None:
    record(1.08, outcome)
    assert margin(store, study) == pytest.approx(0.08)


@pytest.mark.parametrize("outcome", ["diverged", "oom"])
def test_peak_of_a_training_that_was_cut_short_is_no_measurement(
    store: Store, study: StudyRecord, record: Callable[..., None], outcome: Outcome
) -> None:
    for _ in range(40):
        record(0.5, outcome)
    record(1.08, outcome)
    assert margin(store, study) == PRIOR_MARGIN


def test_many_own_trials_replace_the_prior(
    store: Store, study: StudyRecord, record: Callable[..., None]
) -> None:
    for _ in range(19):
        record(0.999)
    assert margin(store, study) == 0


def test_other_card_teaches_this_one_nothing(
    store: Store, study: StudyRecord, record: Callable[..., None]
) -> None:
    record(1.3, device="NVIDIA H200")
    record(1.02, required_ratio_above=1.1)
    assert margin(store, study) == pytest.approx(0.1)
    assert margin(store, study, "NVIDIA H200") == pytest.approx(0.3)
    assert margin(store, study, "CPU") == PRIOR_MARGIN


def test_limit_that_was_met_is_a_floor_under_many_good_predictions(
    store: Store, study: StudyRecord, record: Callable[..., None]
) -> None:
    record(0.99, "oom", required_ratio_above=1.04)
    for _ in range(40):
        record(1.0)
    assert margin(store, study) == pytest.approx(0.04)


def test_continued_study_has_the_margin_that_it_had(
    store: Store, study: StudyRecord, record: Callable[..., None], url: str
) -> None:
    record(1.013)
    record(1.021, "pruned")
    record(0.98, "oom", required_ratio_above=1.05)
    before = margin(store, study)
    store.close()
    again = open_store(url, create=False)
    found = again.study("demo")
    assert found is not None
    assert margin(again, found) == before == pytest.approx(0.05)
    again.close()


def out_of_memory(reserved: int, requested: int | None = None) -> TrialResult:
    error = {} if requested is None else {"requested_bytes": requested}
    return TrialResult("oom", measured={"reserved_bytes": reserved}, error=error)


@given(budget=st.integers(GIB, 200 * GIB), share=st.floats(0.01, 1))
def test_plan_that_met_its_limit_would_not_be_chosen_again(budget: int, share: float) -> None:
    required = max(1, round(share * budget))
    ratio = required_ratio_above(out_of_memory(budget), required, budget)
    assert ratio is not None
    estimate = cast(Estimate, SimpleNamespace(allocated_bytes=1, required_bytes=required))
    plan = MemoryPlan(
        per_device_train_batch_size=1, gradient_accumulation_steps=1, gradient_checkpointing=True
    )
    planned = PlannedTrial(plan, estimate, 1.0)
    assert planned.fits(budget, margin=0)
    assert not planned.fits(budget, margin=ratio - 1)
    assert planned.fits(budget + 2, margin=ratio - 1), "and no more than that"


def test_memory_that_ran_out_below_the_budget_was_somebody_elses() -> None:
    below = round((LIMIT_SHARE - 0.01) * BUDGET)
    assert required_ratio_above(out_of_memory(below), GIB, BUDGET) is None
    assert required_ratio_above(out_of_memory(below, requested=GIB), GIB, BUDGET) is not None
    assert required_ratio_above(TrialResult("oom", measured=None), GIB, BUDGET) is None


OUT_OF_MEMORY = PRUNED.model_copy(
    update={
        "outcome": "oom",
        "requested_bytes": 64 * MIB,
        "allocated_bytes": GIB,
        "reserved_bytes": BUDGET,
    }
)


def fastest_that_fits(context: RunContext, hyperparameters: Hyperparameters) -> PlannedTrial:
    return next(c for c in context.candidates(hyperparameters) if c.fits(BUDGET, context.margin))


@pytest.mark.parametrize(("ooms", "outcome"), [(1, "pruned"), (3, "oom")])
def test_trial_that_ran_out_of_memory_rules_its_plans_out(
    make_context: Callable[..., RunContext], ooms: int, outcome: str
) -> None:
    ready = make_ready(device=DEVICE, allocated_bytes=GIB)
    scripts = [*[[OUT_OF_MEMORY]] * ooms, [PRUNED]]
    context = make_context(FakeTrainer(scripts, ready))
    proposal = context.search.ask()
    first = fastest_that_fits(context, proposal.hyperparameters)

    trial = run_proposal(context, proposal)

    assert trial.outcome == outcome
    last = MemoryPlan.model_validate(trial.plan)
    assert last != first.plan
    context.margin = learnt_margin(SHAPE, context.store.trials(context.record.id), DEVICE)
    assert not first.fits(BUDGET, context.margin)
    chosen = [c for c in context.candidates(proposal.hyperparameters) if c.plan == last]
    assert chosen[0].fits(BUDGET, context.margin) is (outcome == "pruned")
