"""The strategies: one object for each name of the study file."""

from __future__ import annotations

import pytest
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from vram_search.search.problem import Problem
from vram_search.search.strategies import STRATEGIES
from vram_search.spec import SearchSpace
from vram_search.spec.strategy_name import STRATEGY_NAMES


def test_each_name_of_the_study_file_has_a_strategy() -> None:
    assert tuple(STRATEGIES) == STRATEGY_NAMES


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_strategy_opens_a_sampler_and_a_pruner_of_optuna(name: str) -> None:
    sampler, pruner = STRATEGIES[name].open(Problem(SearchSpace()), seed=1)
    assert isinstance(sampler, BaseSampler)
    assert isinstance(pruner, BasePruner)


def test_two_searches_do_not_share_the_count_of_proposals_without_gain() -> None:
    one, other = (STRATEGIES["gp"].global_stopping() for _ in range(2))
    assert one is not None and other is not None
    one.is_due(99, 0.0)
    assert (one.without_gain, other.without_gain) == (1, 0)
