"""What a new search learns of the other studies in its database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.factories import make_point, make_space
from vram_search.search.gp.acquisition import Acquisition
from vram_search.search.gp.rules import GpRules
from vram_search.search.gp.surrogate import Task
from vram_search.search.gp.transfer import shipped, tasks
from vram_search.search.problem import Problem
from vram_search.store import ImportedTrial, Outcome, Store, TrialResult
from vram_search.worker.context import RunContext
from vram_search.worker.prepare import Prepared
from vram_search.worker.transfer import source_tasks

MakeRoom = Callable[..., RunContext]
POINT = make_point().model_dump()
SHIPPED = [150, 150]
"""Trials of the two tasks that the package brings."""


@pytest.fixture
def context(make_context: MakeRoom) -> RunContext:
    """Of study "demo", which is in the database."""
    return make_context(trainer=None)


def record(context: RunContext, study_id: int, count: int, outcome: Outcome = "complete") -> None:
    for number in range(count):
        point = {**POINT, "learning_rate": 1e-4 * (1 + number)}
        trial = context.store.start_trial(study_id, number, point, 1, "d")
        context.store.finish_trial(trial, TrialResult(outcome, 1.0 + 0.1 * number))


def other(context: RunContext, name: str = "other", hidden_size: int | None = None) -> int:
    model = {"name": "model"} if hidden_size is None else {"hidden_size": hidden_size}
    return context.store.create_study(name, {}, "d", {"name": "card"}, model).id


def imported(fingerprint: str, loss: float, **changes: Any) -> ImportedTrial:
    provenance = {"source": "csv", "path": "/x", "run": "r", "model": {"name": "m"}, "notes": []}
    result = TrialResult("complete", loss)
    return ImportedTrial(fingerprint * 64, provenance, {**POINT, **changes}, result)


def known_tasks(store: Store, prepared: Prepared) -> list[Task]:
    return tasks(source_tasks(store, prepared), prepared.shape.hidden_size)


def sizes(context: RunContext) -> list[int]:
    return [len(task.losses) for task in known_tasks(context.store, context.prepared)]


def test_new_database_knows_what_the_package_brings(context: RunContext) -> None:
    assert sizes(context) == SHIPPED


def test_another_study_teaches_before_what_the_package_brings(context: RunContext) -> None:
    record(context, other(context), 6)
    assert sizes(context) == [6, 100, 100]


def test_newest_study_comes_first(context: RunContext) -> None:
    for place, name in enumerate(["old", "middle", "new"]):
        record(context, other(context, name), 5 + place)
    assert sizes(context) == [7, 6, 5, 75]


def test_study_itself_is_not_learnt_of(context: RunContext) -> None:
    record(context, context.record.id, 6)
    assert sizes(context) == SHIPPED


def test_shipped_runs_of_the_studys_own_name_are_not_learnt_of(context: RunContext) -> None:
    named = context.prepared.study.model_copy(update={"study": shipped()[0].name})
    prepared = Prepared(
        named,
        context.prepared.rows,
        context.prepared.shape,
        context.prepared.model_name_or_path,
        None,
    )
    (task,) = known_tasks(context.store, prepared)
    both = known_tasks(context.store, context.prepared)
    assert task.losses.tolist() == both[1].losses.tolist() != both[0].losses.tolist()


def test_trials_without_a_result_teach_nothing(context: RunContext) -> None:
    study = other(context)
    record(context, study, 6, outcome="pruned")
    assert sizes(context) == SHIPPED


def test_larger_model_is_told_of_smaller_learning_rates(context: RunContext) -> None:
    hidden_size = context.prepared.shape.hidden_size
    for name, size in (("same", hidden_size), ("smaller", hidden_size // 4)):
        record(context, other(context, name, size), 5)
    smaller, same = known_tasks(context.store, context.prepared)[:2]
    assert (smaller.points[:, 0] < same.points[:, 0] - 0.2).all()


@pytest.mark.parametrize(
    "unknown",
    [
        {"optim": None},
        {"optim": "not an optimizer"},
        {"lora_rank": None},
        {"lora_target": "not a module"},
    ],
)
def test_imported_runs_with_unknown_hyperparameters_are_passed_over(
    context: RunContext, unknown: dict[str, Any]
) -> None:
    runs = [imported(str(n), 1.0 + n, learning_rate=1e-4 * (n + 1)) for n in range(5)]
    context.store.import_trials("imported", [*runs, imported("a", 0.1, **unknown)])
    assert sizes(context)[0] == 5


@pytest.mark.parametrize("kind", [{"other_training": "dpo"}, {"adapter": {"use_dora": True}}])
def test_runs_of_another_kind_of_training_teach_nothing(
    context: RunContext, kind: dict[str, Any]
) -> None:
    runs = [imported(str(n), 1.0 + n, learning_rate=1e-4 * (n + 1)) for n in range(5)]
    odd = imported("odd", 0.1)
    if "adapter" in kind:
        odd = replace(odd, provenance=odd.provenance | kind)
    else:
        odd = replace(odd, **kind)
    context.store.import_trials("imported", [*runs, odd])
    assert sizes(context)[0] == 5


def test_imported_runs_with_modules_of_another_model_teach(context: RunContext) -> None:
    runs = [imported(str(n), 1.0 + n, lora_target=f"module_{n}") for n in range(5)]
    context.store.import_trials("imported", runs)
    assert sizes(context)[0] == 5


def test_search_starts_where_another_study_was_best(context: RunContext) -> None:
    """Ranks are what another study tells of: the larger the better."""
    study = other(context)
    for number, rank in enumerate([4, 8, 16, 32, 64, 4, 8, 64]):
        point = make_point(lora_rank=rank)
        trial = context.store.start_trial(study, number, point.model_dump(), 1, "d")
        context.store.finish_trial(trial, TrialResult("complete", 2.0 - rank / 100))
    earlier = next(source_tasks(context.store, context.prepared))
    space = make_space(lora_rank=[4, 16, 64])
    points = [make_point(lora_rank=rank) for rank in space.lora_rank]
    acquisition = Acquisition(Problem(space, source_tasks=[earlier]), GpRules())
    assert acquisition.propose([], points).choice == points[-1]
