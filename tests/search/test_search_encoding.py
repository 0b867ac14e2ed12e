"""Hyperparameters become the sampler's parameters and come back unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tests.factories import make_point, make_space
from tests.search.conftest import OpenStorage, in_memory
from vram_search.search import Search
from vram_search.search.encoding import decode, distributions, encode
from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.space_parts import LearningRateRange, NumberRange

DROPOUTS = (None, 0.05, [0, 0.05, 0.1], {"min": 0, "max": 0.1})
ALPHAS = (None, {"ratio": [1, 2, 4]}, {"ratio": 3}, [8, 64], 16)
TARGETS = ("qv", "qkvo", "qkvo_gu", "all", "k_proj,v_proj")
PINNED = {
    "optim": "adamw_8bit",
    "lora_target": "all",
    "lora_rank": 16,
    "cutoff_len": 512,
    "batch_size": 8,
    "learning_rate": 2e-4,
}


@pytest.fixture
def open_storage_of_test() -> OpenStorage:
    return in_memory()


def some(values: st.SearchStrategy[object]) -> st.SearchStrategy[list[object]]:
    return st.lists(values, min_size=1, max_size=5, unique=True)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    rates = st.floats(1e-7, 1.0)
    low, high = sorted((draw(rates), draw(rates)))
    return make_space(
        optim=draw(some(st.sampled_from(sorted(OPTIMIZERS)))),
        lora_target=draw(some(st.sampled_from(TARGETS))),
        lora_rank=draw(some(st.integers(1, 1024))),
        cutoff_len=draw(some(st.integers(16, 100_000))),
        batch_size=draw(some(st.integers(1, 512))),
        learning_rate=draw(st.sampled_from(({"min": low, "max": high}, low))),
        lora_alpha=draw(st.sampled_from(ALPHAS)),
        lora_dropout=draw(st.sampled_from(DROPOUTS)),
    )


@st.composite
def points(draw: st.DrawFn) -> tuple[SearchSpace, Hyperparameters]:
    space = draw(spaces())
    chosen: dict[str, object] = {}
    for dimension in DIMENSIONS:
        options = space.options(dimension)
        if isinstance(options, NumberRange):
            chosen[dimension.name] = draw(st.floats(options.min, options.max))
        else:
            chosen[dimension.name] = draw(st.sampled_from(options))
    return space, space.point(chosen)


def values_of(distribution: BaseDistribution) -> st.SearchStrategy[object]:
    if isinstance(distribution, CategoricalDistribution):
        return st.sampled_from(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return st.integers(distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    return st.floats(distribution.low, distribution.high)


@given(points())
def test_every_point_survives_encoding(drawn: tuple[SearchSpace, Hyperparameters]) -> None:
    space, point = drawn
    assert decode(encode(point, space), space) == point


@given(points())
def test_encoded_point_lies_in_what_the_sampler_is_shown(
    drawn: tuple[SearchSpace, Hyperparameters],
) -> None:
    space, point = drawn
    shown, params = distributions(space), encode(point, space)
    assert params.keys() == shown.keys()
    for name, distribution in shown.items():
        assert distribution._contains(distribution.to_internal_repr(params[name])), name


@given(st.data(), spaces())
def test_all_that_the_sampler_can_propose_is_in_the_space_and_survives_decoding(
    data: st.DataObject, space: SearchSpace
) -> None:
    shown = distributions(space)
    params = {name: data.draw(values_of(shown[name]), name) for name in shown}
    point = decode(params, space)
    assert space.contains(point)
    assert encode(point, space) == params


@pytest.mark.parametrize("name", PINNED)
def test_pinned_hyperparameter_is_hidden_from_optuna(name: str) -> None:
    space = make_space(**{name: PINNED[name]})
    hidden = {"lora_rank": "lora_rank_index", "cutoff_len": "cutoff_len_index"}
    hidden["batch_size"] = "batch_size_index"
    everything = set(distributions(SearchSpace()))
    assert everything - set(distributions(space)) == {hidden.get(name, name)}
    point = decode({}, space)
    assert getattr(point, name) == PINNED[name]


def test_space_without_a_choice_shows_optuna_nothing_and_still_has_a_point() -> None:
    space = make_space(**PINNED)
    assert distributions(space) == {}
    assert decode({}, space) == make_point(**PINNED)


def test_powers_of_two_and_learning_rate_are_searched_on_a_logarithmic_scale() -> None:
    shown = distributions(make_space(lora_rank=[64, 4, 16]))
    assert shown["lora_rank_index"] == IntDistribution(0, 2)
    assert shown["learning_rate"] == FloatDistribution(2e-5, 1e-3, log=True)
    ranks = [
        decode({"lora_rank_index": i}, make_space(lora_rank=[64, 4, 16])).lora_rank
        for i in range(3)
    ]
    assert ranks == [4, 16, 64]


def test_lora_alpha_is_searched_as_a_multiple_of_the_rank_or_as_fixed_values() -> None:
    ratios = make_space(lora_rank=[4, 32], lora_alpha={"ratio": [1, 4]})
    assert distributions(ratios)["lora_alpha_index"] == IntDistribution(0, 1)
    found = decode({"lora_rank_index": 1, "lora_alpha_index": 1}, ratios)
    assert (found.lora_rank, found.lora_alpha) == (32, 128)
    fixed = make_space(lora_rank=[4, 32], lora_alpha=[16, 64])
    found = decode({"lora_rank_index": 1, "lora_alpha_index": 1}, fixed)
    assert (found.lora_rank, found.lora_alpha) == (32, 64)


def test_pinned_lora_alpha_follows_the_rank() -> None:
    space = make_space(lora_rank=[4, 32], lora_alpha={"ratio": 3})
    assert decode({"lora_rank_index": 1}, space).lora_alpha == 96


@pytest.mark.parametrize(
    "outside",
    [{"lora_rank": 5}, {"optim": "lion_8bit"}, {"learning_rate": 0.5}, {"cutoff_len": 2048}],
)
def test_point_outside_the_space_is_refused(outside: dict[str, object]) -> None:
    point = make_point(**{**PINNED, **outside})
    with pytest.raises(ValueError, match="not in the search space"):
        encode(point, SearchSpace())


def test_learning_rate_a_rounding_error_beyond_the_bound_is_moved_onto_it() -> None:
    space = SearchSpace()
    assert isinstance(space.learning_rate, LearningRateRange)
    beyond = math.nextafter(space.learning_rate.max, 1)
    point = make_point(**{**PINNED, "learning_rate": beyond})
    assert encode(point, space)["learning_rate"] == space.learning_rate.max


def test_enqueued_point_is_asked_for_exactly(open_search: Callable[..., Search]) -> None:
    search = open_search()
    point = make_point(**{**PINNED, "learning_rate": 1.2345678901234567e-4})
    search.enqueue(point)
    assert search.ask().hyperparameters == point
    assert search.ask().hyperparameters != point, "an enqueued point comes once"


def test_optuna_keeps_each_category_as_it_is_written(open_search: Callable[..., Search]) -> None:
    space = make_space(lora_target=[["k_proj", "v_proj"], "all"])
    seen = {open_search(space, seed=seed).ask().hyperparameters.lora_target for seed in range(8)}
    assert seen == {"k_proj,v_proj", "all"}


def test_optional_hyperparameter_that_is_not_searched_is_hidden_and_has_its_default() -> None:
    assert "lora_dropout" not in " ".join(distributions(SearchSpace()))
    assert decode({}, make_space(**PINNED)).lora_dropout == 0.0
    dropped = make_space(**PINNED).point({}).model_copy(update={"lora_dropout": 0.1})
    assert not make_space(**PINNED).contains(dropped)


def test_dropout_is_searched_among_values_or_within_a_range() -> None:
    listed = make_space(**PINNED, lora_dropout=[0.1, 0, 0.05])
    assert distributions(listed) == {"lora_dropout_index": IntDistribution(0, 2)}
    assert decode({"lora_dropout_index": 1}, listed).lora_dropout == 0.05
    ranged = make_space(**PINNED, lora_dropout={"min": 0, "max": 0.1})
    assert distributions(ranged) == {"lora_dropout": FloatDistribution(0.0, 0.1)}


def test_points_of_an_older_search_read_as_the_default_and_are_learnt_from() -> None:
    old = {**PINNED, "lora_alpha": 32}
    point = Hyperparameters.model_validate(old)
    assert point.model_dump() == old, "an optional value at its default is not recorded"
    space = make_space(**PINNED, lora_dropout=[0, 0.1])
    assert encode(point, space) == {"lora_dropout_index": 0}
