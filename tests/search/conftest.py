"""A search and a store on one real SQLite file, or a search in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial

from vram_search.search import STRATEGIES, Problem, Search, open_storage
from vram_search.spec import SearchSpace
from vram_search.store import Store

RUNGS = (1 / 9, 1 / 3, 2 / 3)

OpenSearch = Callable[..., Search]
OptunaTrials = Callable[..., list[FrozenTrial]]
OpenStorage = Callable[[], AbstractContextManager[BaseStorage]]


@pytest.fixture
def open_storage_of_test(url: str, store: Store) -> OpenStorage:
    """Opens Optuna's tables in the test's database; files whose subject is no storage replace it by
    `in_memory`."""
    return lambda: open_storage(url)


def in_memory() -> OpenStorage:
    """A storage that every search of the test shares."""
    storage = InMemoryStorage()
    return lambda: nullcontext(storage)


@pytest.fixture
def open_search(open_storage_of_test: OpenStorage) -> Iterator[OpenSearch]:
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
            storage = storages.enter_context(open_storage_of_test())
            problem = Problem(space or SearchSpace(), rungs=rungs, **known)
            return Search(storage, study, revision, problem, STRATEGIES[strategy], seed)

        yield open_


@pytest.fixture
def optuna_trials(open_storage_of_test: OpenStorage) -> OptunaTrials:
    """What Optuna itself finds in the storage, in number order."""

    def trials(revision: int = 1) -> list[FrozenTrial]:
        name = "demo" if revision == 1 else f"demo@{revision}"
        with open_storage_of_test() as storage:
            return optuna.load_study(storage=storage, study_name=name).trials

    return trials
