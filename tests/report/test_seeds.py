"""Ranks of configurations that were trained with several seeds."""

from __future__ import annotations

import pytest

from vram_search.report.seeds import SeedGroup, rank
from vram_search.report.winner import seed_noise


def group(*losses: float) -> SeedGroup:
    return SeedGroup(losses, [[loss * 15, loss * 15] for loss in losses])


def test_rank_is_clear_when_the_difference_is_many_times_the_spread() -> None:
    found = rank(group(1.0, 1.001), group(1.1))
    assert found.difference == pytest.approx(0.0995)
    assert found.probability > 0.999 and found.words == "the winner stays first"


def test_rank_stays_open_when_seeds_differ_as_much_as_the_two_trials() -> None:
    found = rank(group(1.00, 1.02), group(1.01, 1.02))
    assert 0.5 < found.probability < 0.8
    assert found.words == "which of the two is better stays open"


def test_rank_names_the_other_one_when_fresh_seeds_are_worse() -> None:
    assert rank(group(1.10, 1.11), group(1.0)).words == "the other one is better"


def test_one_seed_each_has_the_spread_of_recorded_runs() -> None:
    found = rank(SeedGroup([1.0], [[]]), SeedGroup([1.0], [[]]))
    assert found.standard_error == pytest.approx(seed_noise(1.0) * 2**0.5)
    assert found.probability == 0.5


def test_more_seeds_make_the_error_smaller() -> None:
    few = rank(SeedGroup([1.0], [[]]), SeedGroup([1.1], [[]]))
    many = rank(SeedGroup([1.0] * 5, [[]] * 5), SeedGroup([1.1] * 5, [[]] * 5))
    assert many.standard_error < few.standard_error / 2
