"""A search and a store on one real SQLite file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from vram_search.search import STRATEGIES, Problem, Search, open_storage
from vram_search.spec import SearchSpace
from vram_search.store import Store

RUNGS = (1 / 9, 1 / 3, 2 / 3)

OpenSearch = Callable[..., Search]
OptunaTrials = Callable[..., list[FrozenTrial]]


@pytest.fixture
def open_search(url: str, store: Store) -> Iterator[OpenSearch]:
    """Opens the search of study "demo" as a process does at its start."""
    with ExitStack() as storages:

        def open_(
            space: SearchSpace | None = None,
            *,
            study: str = "demo",
            revision: int = 1,
            rungs: Sequence[float] = RUNGS,
            seed: int = 7,
            strategy: str = "gp",
            **known: Any,
        ) -> Search:
            storage = storages.enter_context(open_storage(url))
            problem = Problem(space or SearchSpace(), rungs=rungs, **known)
            return Search(storage, study, revision, problem, STRATEGIES[strategy], seed)

        yield open_


@pytest.fixture
def optuna_trials(url: str) -> OptunaTrials:
    """What Optuna itself finds in the file, in number order."""

    def trials(revision: int = 1) -> list[FrozenTrial]:
        name = "demo" if revision == 1 else f"demo@{revision}"
        return optuna.load_study(storage=url, study_name=name).trials

    return trials
