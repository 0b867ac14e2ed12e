"""Adds a point that a person wants to try to a search, in front of what the sampler proposes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from vram_search.errors import InputError, NotFoundError, TooLateError
from vram_search.search import STRATEGIES, Problem, Search, open_storage
from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.spec.hyperparameters import BY_NAME
from vram_search.spec.search_space import NotInSpaceError, same_value
from vram_search.store import Store, StudyRecord, TrialRecord
from vram_search.worker.reconcile import contradiction_of
from vram_search.worker.recorded_study import recorded_space


def try_next(
    store: Store,
    url: str,
    study: StudyRecord,
    values: Mapping[str, Any],
    like: TrialRecord,
) -> Hyperparameters:
    """Lets a study try a point next, also while it runs in another process.

    Args:
        values: hyperparameters by name; lora_alpha follows the rank if the study does not search
            it by itself.
        like: the trial whose other values the point takes.

    Raises:
        InputError: a name or a value is not in the study's search space, or the study was imported.
        TooLateError: a trial has tried this point already.
    """
    if study.is_imported:
        raise InputError(f"study {study.name} holds imported runs: no search tries points there")
    space = recorded_space(study)
    point = _point(space, values, like)
    for trial in store.trials(study.id):
        if trial.outcome != "lost" and _is_same(point, trial):
            raise TooLateError(
                f"trial {trial.number} has tried this already",
                f"see: vram-search show {trial.number}",
            )
    refused: list[str] = []
    problem = Problem(space)
    contradiction = partial(contradiction_of, store, study, problem)
    with open_storage(url, study.name, refused.append, contradiction) as storage:
        if refused:
            raise InputError(f"study {study.name} takes no point: {refused[0]}")
        strategy, seed = STRATEGIES["random"], study.spec["seed"]
        search = Search(storage, study.name, study.revision, problem, strategy, seed)
        search.enqueue(point)
    store.report_point(study.name, point.model_dump(mode="json"))
    return point


def _point(space: SearchSpace, values: Mapping[str, Any], like: TrialRecord) -> Hyperparameters:
    for name in values:
        if name not in BY_NAME:
            raise NotFoundError(
                f"{name!r} is not a hyperparameter", f"there are: {', '.join(BY_NAME)}"
            )
    base = dict(like.hyperparameters)
    if "lora_rank" in values:
        base.pop("lora_alpha", None)
    try:
        return space.exact(values, base)
    except NotInSpaceError as error:
        raise InputError(
            f"{error.name} {error.value!r} is not in the study's search space",
            f"allowed: {error.allowed}",
        ) from None


def _is_same(point: Hyperparameters, trial: TrialRecord) -> bool:
    own = point.model_dump(mode="json")
    return all(
        same_value(own[name], value) for name, value in trial.hyperparameters.items() if name in own
    )
