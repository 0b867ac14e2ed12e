"""Optuna's pruner at rungs: a trial behind the others stops, a trial ahead of them goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
from optuna.trial import FrozenTrial

from tests.search.conftest import OpenStorage, in_memory
from vram_search.search import Search

RUNG = 1 / 9

OpenSearch = Callable[..., Search]


@pytest.fixture
def open_storage_of_test() -> OpenStorage:
    return in_memory()


@pytest.fixture
def open_search(open_search: OpenSearch) -> OpenSearch:
    """With Optuna's sampler and pruner."""
    return partial(open_search, strategy="tpe")


def complete(search: Search, losses: Sequence[float], fraction: float = RUNG) -> None:
    """Runs a trial to its end for each loss at a rung."""
    for value in losses:
        number = search.ask().number
        search.should_prune(number, fraction, value)
        search.tell(number, "complete", value, -0.1)


def prunes(search: Search, value: float | None, fraction: float = RUNG) -> bool:
    number = search.ask().number
    verdict = search.should_prune(number, fraction, value)
    search.tell(number, "pruned" if verdict else "complete", None if verdict else value, -0.1)
    return verdict


def test_bad_trial_is_pruned_once_enough_are_complete(open_search: OpenSearch) -> None:
    search = open_search()
    for value in (1.0, 1.1, 1.2):
        assert not prunes(search, 9.0 + value), "too few to compare with"
    assert prunes(search, 13.0)


def test_best_trial_is_never_pruned(open_search: OpenSearch) -> None:
    search = open_search()
    complete(search, [1.3, 1.2, 1.1, 1.0])
    assert not prunes(search, 0.9)


def test_worse_half_is_pruned_and_the_better_half_goes_on(open_search: OpenSearch) -> None:
    search = open_search()
    complete(search, [1.0, 1.1, 1.2, 1.3, 1.4])
    number = search.ask().number
    assert not search.should_prune(number, RUNG, 1.15)
    assert search.should_prune(search.ask().number, RUNG, 1.25)


def test_trial_that_falls_behind_later_is_pruned_there(open_search: OpenSearch) -> None:
    search = open_search()
    for value in (1.3, 1.2, 1.1, 1.0):
        number = search.ask().number
        assert not search.should_prune(number, 1 / 9, 3.0)
        assert not search.should_prune(number, 1 / 3, value)
        search.tell(number, "complete", value, -0.1)
    number = search.ask().number
    assert not search.should_prune(number, 1 / 9, 2.9)
    assert search.should_prune(number, 1 / 3, 2.8)


def test_loss_that_is_not_finite_prunes_even_the_first_trial(open_search: OpenSearch) -> None:
    search = open_search()
    assert prunes(search, None)
    assert open_search(rungs=()).should_prune(0, 0.5, None)


def test_study_without_rungs_never_prunes_a_finite_loss(open_search: OpenSearch) -> None:
    search = open_search(rungs=())
    complete(search, [1.0, 1.0, 1.0])
    assert not prunes(search, 99.0)


@pytest.mark.parametrize("fraction", [1 / 9, 1 / 10, 2 / 13, 3 / 28])
def test_equal_rungs_compare_though_step_counts_differ(
    open_search: OpenSearch, fraction: float
) -> None:
    search = open_search()
    complete(search, [1.0, 1.1, 1.2], fraction=1 / 9)
    assert prunes(search, 2.0, fraction)


def test_different_rungs_do_not_compare(open_search: OpenSearch) -> None:
    search = open_search()
    complete(search, [1.0, 1.1, 1.2], fraction=2 / 3)
    assert not prunes(search, 2.0, fraction=1 / 9)


def test_reports_are_kept_by_rung(
    open_search: OpenSearch, optuna_trials: Callable[..., list[FrozenTrial]]
) -> None:
    search = open_search()
    number = search.ask().number
    for fraction, value in ((0.12, 3.0), (0.34, 2.0), (0.65, 1.0)):
        search.should_prune(number, fraction, value)
    assert optuna_trials()[0].intermediate_values == {0: 3.0, 1: 2.0, 2: 1.0}


def test_trial_without_a_finite_loss_is_no_yardstick(open_search: OpenSearch) -> None:
    search = open_search()
    complete(search, [1.0, 1.1])
    assert prunes(search, None)
    assert not prunes(search, 2.0), "two complete trials are too few, the third was not finite"
