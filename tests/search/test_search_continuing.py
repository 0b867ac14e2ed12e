"""A search that goes on: the same file in a new process, and after its space has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.factories import make_point, make_space
from vram_search.search import Search
from vram_search.search.memory_constraint import MEMORY_CONSTRAINT
from vram_search.store import Evaluation, Outcome, Store, StudyRecord, TrialRecord, TrialResult

OpenSearch = Callable[..., Search]
OptunaTrials = Callable[..., list[FrozenTrial]]

POINT = make_point(learning_rate=2e-4)
NARROWER = make_space(optim=["adamw_8bit", "lion_8bit"], lora_target=["all"], lora_rank=[8, 16])


def rates(search: Search, count: int) -> list[float]:
    """Learning rates of random proposals: none is told, so nothing is learnt."""
    return [search.ask().hyperparameters.learning_rate for _ in range(count)]


def test_new_process_goes_on_with_the_numbers(open_search: OpenSearch) -> None:
    first = open_search()
    assert [first.ask().number for _ in range(3)] == [0, 1, 2]
    second = open_search()
    assert second.trial_count == 3
    assert [second.ask().number for _ in range(2)] == [3, 4]


def test_continued_study_draws_other_random_points(open_search: OpenSearch) -> None:
    drawn = rates(open_search(), 4) + rates(open_search(), 4) + rates(open_search(), 4)
    assert len(set(drawn)) == 12


def test_cutoffs_that_cut_no_row_are_not_drawn(open_search: OpenSearch) -> None:
    search = open_search(make_space(cutoff_len=[256, 512, 1024, 4096]))
    search.problem.largest_cutoff_len = 512
    drawn = {search.ask().hyperparameters.cutoff_len for _ in range(12)}
    assert drawn == {256, 512}


def test_equal_seeds_propose_equal_points(open_search: OpenSearch) -> None:
    # Each revision is a study of its own: the same start, the same seed.
    assert rates(open_search(revision=1), 5) == rates(open_search(revision=2), 5)
    assert rates(open_search(revision=3), 5) != rates(open_search(revision=4, seed=8), 5)


def test_new_process_knows_what_was_told(open_search: OpenSearch) -> None:
    first = open_search()
    for value in (1.0, 1.1, 1.2):
        number = first.ask().number
        first.should_prune(number, 1 / 3, value)
        first.tell(number, "complete", value, -0.1)
    second = open_search()
    assert second.should_prune(second.ask().number, 1 / 3, 2.0)


def test_new_process_can_tell_what_the_old_one_asked_for(
    open_search: OpenSearch, optuna_trials: OptunaTrials
) -> None:
    number = open_search().ask().number
    open_search().tell(number, "complete", 1.5, -0.25)
    (told,) = optuna_trials()
    assert (told.state, told.value) == (TrialState.COMPLETE, 1.5)
    assert told.constraints[MEMORY_CONSTRAINT] == -0.25


def test_enqueued_point_waits_for_the_next_process(open_search: OpenSearch) -> None:
    open_search().enqueue_retry(POINT, 4)
    search = open_search()
    assert search.enqueued_retries() == {4}
    proposal = search.ask()
    assert (proposal.hyperparameters, proposal.retry_of) == (POINT, 4)
    assert search.ask().retry_of is None


def test_only_an_enqueued_repetition_names_what_it_repeats(open_search: OpenSearch) -> None:
    search = open_search()
    search.enqueue(POINT)
    assert search.enqueued_retries() == set()
    assert search.ask().retry_of is None


def test_changed_categories_open_a_fresh_optuna_study(
    open_search: OpenSearch, optuna_trials: OptunaTrials
) -> None:
    open_search().ask()
    search = open_search(NARROWER, revision=2)
    assert search.trial_count == 0
    assert NARROWER.contains(search.ask().hyperparameters)
    assert [len(optuna_trials(revision)) for revision in (1, 2)] == [1, 1]


@pytest.fixture
def record(store: Store, study: StudyRecord) -> Callable[..., None]:
    """Records a finished trial, as the worker does."""

    def record_(
        number: int,
        outcome: Outcome,
        eval_loss: float | None = None,
        excess: float | None = -0.25,
        **changes: Any,
    ) -> None:
        point = POINT.model_copy(update=changes)
        trial_id = store.start_trial(study.id, number, point.model_dump(mode="json"), 42, "d1")
        if excess is not None:
            store.record_plan(trial_id, {}, {"excess": excess})
        store.finish_trial(trial_id, TrialResult(outcome, eval_loss=eval_loss))

    return record_


Record = Callable[..., None]


def recorded(store: Store, study: StudyRecord) -> list[TrialRecord]:
    return store.trials(study.id)


def test_fresh_study_learns_recorded_trials_under_their_numbers(
    open_search: OpenSearch,
    optuna_trials: OptunaTrials,
    store: Store,
    study: StudyRecord,
    record: Record,
) -> None:
    record(0, "complete", 1.25)
    record(1, "pruned", 1.5)
    record(2, "diverged")
    search = open_search(NARROWER, revision=2)
    search.learn(recorded(store, study))
    learnt = optuna_trials(2)
    assert [(trial.state, trial.value) for trial in learnt] == [
        (TrialState.COMPLETE, 1.25),
        (TrialState.PRUNED, None),
        (TrialState.PRUNED, None),
    ]
    assert learnt[0].params == {
        "optim": "adamw_8bit",
        "lora_rank_index": 1,
        "cutoff_len_index": 0,
        "batch_size_index": 1,
        "learning_rate": 2e-4,
    }
    assert search.ask().number == 3


def test_what_lies_outside_the_new_space_and_gaps_become_failed(
    open_search: OpenSearch,
    optuna_trials: OptunaTrials,
    store: Store,
    study: StudyRecord,
    record: Record,
) -> None:
    record(0, "complete", 1.0, lora_rank=64, lora_alpha=128)
    record(2, "complete", 1.25)
    record(3, "lost", excess=None)
    record(5, "oom")
    open_search(NARROWER, revision=2).learn(recorded(store, study))
    fail, complete, pruned = TrialState.FAIL, TrialState.COMPLETE, TrialState.PRUNED
    states = [trial.state for trial in optuna_trials(2)]
    assert states == [fail, fail, complete, fail, fail, pruned]
    assert [trial.number for trial in optuna_trials(2)] == [0, 1, 2, 3, 4, 5]


def test_constraints_survive_learning(
    open_search: OpenSearch,
    optuna_trials: OptunaTrials,
    store: Store,
    study: StudyRecord,
    record: Record,
) -> None:
    record(0, "complete", 1.25, excess=-0.5)
    record(1, "oom", excess=-0.5)
    record(2, "infeasible", excess=0.75)
    record(3, "pruned", excess=None)
    record(4, "lost")
    open_search(NARROWER, revision=2).learn(recorded(store, study))
    constraints = [trial.constraints.get(MEMORY_CONSTRAINT) for trial in optuna_trials(2)]
    assert constraints == [-0.5, 0.01, 0.75, 0.0, None]


def test_losses_at_the_rungs_are_learnt_too(
    open_search: OpenSearch,
    optuna_trials: OptunaTrials,
    store: Store,
    study: StudyRecord,
    record: Record,
) -> None:
    record(0, "complete", 1.25)
    points = ((1, 0.12, 2.0), (3, 0.34, None), (6, 0.65, 1.5), (9, 1.0, 1.25))
    found = {
        trial.id: [Evaluation(step, fraction, loss) for step, fraction, loss in points]
        for trial in recorded(store, study)
    }
    open_search(NARROWER, revision=2).learn(recorded(store, study), found.__getitem__)
    assert optuna_trials(2)[0].intermediate_values == {0: 2.0, 2: 1.5}


def test_learning_twice_adds_nothing(
    open_search: OpenSearch, store: Store, study: StudyRecord, record: Record
) -> None:
    record(0, "complete", 1.25)
    search = open_search(NARROWER, revision=2)
    search.learn(recorded(store, study))
    search.learn(recorded(store, study))
    assert search.trial_count == 1


def test_trial_of_a_wider_space_is_learnt_where_choices_were_added(
    open_search: OpenSearch,
    optuna_trials: OptunaTrials,
    store: Store,
    study: StudyRecord,
    record: Record,
) -> None:
    record(0, "complete", 1.25)
    wider = make_space(optim=["lion_8bit", "paged_adamw_8bit", "adamw_8bit"], lora_rank=[2, 16])
    search = open_search(wider, revision=2)
    search.learn(recorded(store, study))
    assert optuna_trials(2)[0].state == TrialState.COMPLETE
    assert wider.contains(search.ask().hyperparameters)
