"""After a night that ended badly: record and sampler agree again, lost trials come first.

A killed process leaves a trial in one of a few states, since the store is written before Optuna is
told; each is built here by hand, and a new Search stands for the next process.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.factories import make_space
from vram_search.search import STRATEGIES, Problem, Proposal, Search, open_storage
from vram_search.search.memory_constraint import MEMORY_CONSTRAINT
from vram_search.spec import SearchSpace
from vram_search.store import Outcome, Store, StudyRecord, TrialResult, open_store, sqlite_url
from vram_search.store.retries import MAX_RETRIES
from vram_search.worker.reconcile import enqueue_lost, reconcile

SPACE = make_space(optim=["adamw_8bit", "lion_8bit"], lora_rank=[8, 16, 32])
DATA_HASH = "d1"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "search.db"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    opened = open_store(sqlite_url(file), create=True)
    yield opened
    opened.close()


@pytest.fixture
def study(store: Store) -> StudyRecord:
    return store.create_study("demo", {}, DATA_HASH, {"name": "card"}, {"name": "model"})


@pytest.fixture
def open_search(file: Path, study: StudyRecord) -> Iterator[Callable[..., Search]]:
    """The search as the next process opens it."""
    with ExitStack() as storages:

        def open_(space: SearchSpace = SPACE, revision: int = 1) -> Search:
            storage = storages.enter_context(open_storage(sqlite_url(file)))
            problem = Problem(space, rungs=(0.5,))
            return Search(storage, "demo", revision, problem, STRATEGIES["gp"], 7)

        yield open_


OpenSearch = Callable[..., Search]


def optuna_trials(file: Path, revision: int = 1) -> list[FrozenTrial]:
    name = "demo" if revision == 1 else f"demo@{revision}"
    return optuna.load_study(storage=sqlite_url(file), study_name=name).trials


def states(file: Path, revision: int = 1) -> list[TrialState]:
    return [trial.state for trial in optuna_trials(file, revision)]


def start(store: Store, study: StudyRecord, proposal: Proposal, excess: float = -0.25) -> int:
    """What the worker writes before the training begins."""
    trial_id = store.start_trial(
        study.id,
        proposal.number,
        proposal.hyperparameters.model_dump(mode="json"),
        seed=42,
        data_hash=DATA_HASH,
        retry_of=proposal.retry_of,
    )
    store.record_plan(trial_id, {}, {"excess": excess})
    return trial_id


def restart(store: Store, study: StudyRecord, search: Search) -> list[str]:
    """Reconciles as a run does at its start; returns what was noted."""
    notes: list[str] = []
    reconcile(store, study, search, notes.append)
    return notes


def dump(file: Path) -> list[str]:
    """Every row of every table, Optuna's too."""
    with closing(sqlite3.connect(file)) as connection:
        return list(connection.iterdump())


def test_trial_that_was_running_is_lost_and_comes_first_again(
    store: Store, study: StudyRecord, open_search: OpenSearch, file: Path
) -> None:
    proposal = open_search().ask()
    store.record_stage(start(store, study, proposal), "train")

    search = open_search()
    notes = restart(store, study, search)

    (lost,) = store.trials(study.id)
    assert lost.outcome == "lost"
    assert lost.finished_at is not None
    assert lost.error is not None
    assert lost.error["stage"] == "train"
    (note,) = notes
    assert "trial 0 was cut off in train" in note
    assert states(file) == [TrialState.FAIL, TrialState.WAITING]
    again = search.ask()
    assert again.hyperparameters == proposal.hyperparameters
    assert (again.number, again.retry_of) == (1, 0)
    assert search.ask().retry_of is None, "enqueued once"


def test_proposal_that_was_never_recorded_is_withdrawn(
    store: Store, study: StudyRecord, open_search: OpenSearch, file: Path
) -> None:
    open_search().ask()
    search = open_search()
    assert restart(store, study, search) == []
    assert states(file) == [TrialState.FAIL]
    assert store.trials(study.id) == []
    proposal = search.ask()
    assert (proposal.number, proposal.retry_of) == (1, None)


def test_complete_trial_that_was_not_told_is_told_with_its_loss(
    store: Store, study: StudyRecord, open_search: OpenSearch, file: Path
) -> None:
    trial_id = start(store, study, open_search().ask(), excess=-0.5)
    store.finish_trial(trial_id, TrialResult("complete", eval_loss=1.25))
    restart(store, study, open_search())
    (told,) = optuna_trials(file)
    assert (told.state, told.value) == (TrialState.COMPLETE, 1.25)
    assert told.constraints[MEMORY_CONSTRAINT] == -0.5


@pytest.mark.parametrize(
    ("outcome", "excess", "constraint"),
    [
        ("pruned", -0.5, -0.5),
        ("diverged", -0.5, -0.5),
        ("infeasible", 0.75, 0.75),
        ("oom", -0.5, 0.01),
    ],
)
def test_recorded_outcome_that_was_not_told_is_told_with_its_constraint(
    store: Store,
    study: StudyRecord,
    open_search: OpenSearch,
    file: Path,
    outcome: Outcome,
    excess: float,
    constraint: float,
) -> None:
    trial_id = start(store, study, open_search().ask(), excess)
    store.finish_trial(trial_id, TrialResult(outcome, eval_loss=1.5))
    restart(store, study, open_search())
    (told,) = optuna_trials(file)
    assert told.state == TrialState.PRUNED
    assert told.constraints[MEMORY_CONSTRAINT] == constraint
    assert told.user_attrs["outcome"] == outcome
    assert [trial.outcome for trial in store.trials(study.id)] == [outcome]


def test_trial_killed_between_its_constraint_and_its_end_is_told(
    store: Store, study: StudyRecord, open_search: OpenSearch, file: Path
) -> None:
    proposal = open_search().ask()
    trial_id = start(store, study, proposal)
    store.finish_trial(trial_id, TrialResult("complete", eval_loss=1.25))
    half_told = optuna.load_study(storage=sqlite_url(file), study_name="demo")
    optuna.Trial(half_told, half_told.trials[0]._trial_id).set_constraint(MEMORY_CONSTRAINT, -0.25)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns of a constraint that is set again
        restart(store, study, open_search())
    (told,) = optuna_trials(file)
    assert (told.state, told.value) == (TrialState.COMPLETE, 1.25)
    assert told.constraints[MEMORY_CONSTRAINT] == -0.25


def test_lost_trial_that_was_not_told_fails_and_is_put_in_line(
    store: Store, study: StudyRecord, open_search: OpenSearch, file: Path
) -> None:
    proposal = open_search().ask()
    store.finish_trial(start(store, study, proposal), TrialResult("lost"))
    search = open_search()
    assert restart(store, study, search) == []
    assert states(file) == [TrialState.FAIL, TrialState.WAITING]
    assert search.ask().retry_of == 0


def leave_every_state_behind(store: Store, study: StudyRecord, search: Search) -> None:
    """Told, recorded, running and asked for, as one kill may leave them."""
    told, recorded, running, _asked = (search.ask() for _ in range(4))
    store.finish_trial(start(store, study, told), TrialResult("complete", eval_loss=1.5))
    search.tell(told.number, "complete", 1.5, -0.25)
    store.finish_trial(start(store, study, recorded), TrialResult("complete", eval_loss=1.25))
    start(store, study, running)


def test_all_states_are_put_right_at_once(
    store: Store, study: StudyRecord, open_search: OpenSearch, file: Path
) -> None:
    leave_every_state_behind(store, study, open_search())
    restart(store, study, open_search())
    complete, fail, waiting = TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING
    assert states(file) == [complete, complete, fail, fail, waiting]
    assert [trial.value for trial in optuna_trials(file)[:2]] == [1.5, 1.25]
    assert [trial.outcome for trial in store.trials(study.id)] == ["complete", "complete", "lost"]


def test_reconciling_twice_changes_nothing(
    store: Store, study: StudyRecord, open_search: OpenSearch, file: Path
) -> None:
    leave_every_state_behind(store, study, open_search())
    restart(store, study, open_search())
    once = dump(file)
    assert restart(store, study, open_search()) == []
    assert dump(file) == once


def test_repetition_that_is_running_is_not_put_in_line_again(
    store: Store, study: StudyRecord, open_search: OpenSearch
) -> None:
    search = open_search()
    store.finish_trial(start(store, study, search.ask()), TrialResult("lost"))
    search.tell(0, "lost", None, 0.0)
    enqueue_lost(store, study, search)
    again = search.ask()
    start(store, study, again)
    enqueue_lost(store, study, search)
    assert (again.retry_of, search.ask().retry_of) == (0, None)


def test_repetition_killed_before_it_was_recorded_is_put_in_line_again(
    store: Store, study: StudyRecord, open_search: OpenSearch
) -> None:
    proposal = open_search().ask()
    start(store, study, proposal)
    second = open_search()
    restart(store, study, second)
    assert second.ask().retry_of == 0

    third = open_search()
    restart(store, study, third)
    again = third.ask()
    assert (again.retry_of, again.hyperparameters) == (0, proposal.hyperparameters)


def test_trial_that_keeps_being_lost_is_given_up(
    store: Store, study: StudyRecord, open_search: OpenSearch, file: Path
) -> None:
    start(store, study, open_search().ask())
    for attempt in range(1, MAX_RETRIES + 1):
        search = open_search()
        restart(store, study, search)
        again = search.ask()
        assert (again.number, again.retry_of) == (attempt, attempt - 1)
        start(store, study, again)

    search = open_search()
    restart(store, study, search)
    assert states(file) == [TrialState.FAIL] * (MAX_RETRIES + 1)
    assert search.ask().retry_of is None


def test_stopped_trial_that_began_again_has_all_its_attempts(
    store: Store, study: StudyRecord, open_search: OpenSearch
) -> None:
    """Being stopped at a rung is not being lost."""
    search = open_search()
    stopped = search.ask()
    store.finish_trial(start(store, study, stopped), TrialResult("pruned"))
    search.tell(stopped.number, "pruned", None, 0.0)
    search.enqueue_retry(stopped.hyperparameters, stopped.number)
    start(store, study, search.ask())
    for attempt in range(1, MAX_RETRIES + 1):
        search = open_search()
        restart(store, study, search)
        again = search.ask()
        assert again.retry_of == attempt
        start(store, study, again)


def test_lost_trial_whose_repetition_completed_is_done(
    store: Store, study: StudyRecord, open_search: OpenSearch, file: Path
) -> None:
    start(store, study, open_search().ask())
    search = open_search()
    restart(store, study, search)
    again = search.ask()
    store.finish_trial(start(store, study, again), TrialResult("complete", eval_loss=1.25))
    restart(store, study, open_search())
    assert states(file) == [TrialState.FAIL, TrialState.COMPLETE]


def test_optunas_tables_are_filled_from_the_record_when_they_are_gone(
    store: Store, study: StudyRecord, open_search: OpenSearch, file: Path
) -> None:
    leave_every_state_behind(store, study, open_search())
    optuna.delete_study(storage=sqlite_url(file), study_name="demo")

    search = open_search()
    restart(store, study, search)
    complete, fail, waiting = TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING
    assert states(file) == [complete, complete, fail, waiting]
    learnt = optuna_trials(file)[:2]
    assert [trial.value for trial in learnt] == [1.5, 1.25]
    assert [trial.constraints[MEMORY_CONSTRAINT] for trial in learnt] == [-0.25] * 2
    again = search.ask()
    assert (again.number, again.retry_of) == (3, 2), "a number that no record has"


def test_lost_trial_outside_the_changed_space_is_not_repeated(
    store: Store, study: StudyRecord, open_search: OpenSearch, file: Path
) -> None:
    first = open_search()
    inside, outside = (first.ask() for _ in range(2))
    narrow = make_space(
        optim=list(SPACE.optim),
        lora_rank=list(SPACE.lora_rank),
        learning_rate=inside.hyperparameters.learning_rate,
    )
    assert not narrow.contains(outside.hyperparameters)
    start(store, study, inside)
    start(store, study, outside)

    search = open_search(narrow, revision=2)
    restart(store, study, search)
    assert [trial.outcome for trial in store.trials(study.id)] == ["lost", "lost"]
    assert states(file, 2) == [TrialState.FAIL, TrialState.FAIL, TrialState.WAITING]
    assert search.ask().retry_of == inside.number
    assert search.ask().retry_of is None
