"""Published configurations, moved into the study's space."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.factories import make_space
from vram_search.spec import SearchSpace
from vram_search.spec.initial_points import PUBLISHED, initial_points


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    counts = st.lists(st.integers(1, 1024), min_size=1, max_size=5, unique=True)
    low, high = sorted((draw(st.floats(1e-6, 1.0)), draw(st.floats(1e-6, 1.0))))
    return make_space(
        optim=draw(st.sampled_from((["adamw_8bit"], ["lion_8bit", "adamw_torch"]))),
        lora_target=draw(st.sampled_from((["qv"], ["all", "qv"], ["qkvo", "qkvo_gu"]))),
        lora_rank=draw(counts),
        cutoff_len=draw(st.sampled_from(([512], [2048, 256]))),
        batch_size=draw(counts),
        learning_rate={"min": low, "max": high},
    )


ALPHAS = st.sampled_from([None, {"ratio": [1, 2]}, {"ratio": 3}, [8, 64], 16])


@given(spaces(), ALPHAS)
def test_priors_lie_in_the_space_and_no_two_are_alike(space: SearchSpace, alpha: object) -> None:
    space = make_space(**{**space.model_dump(), "lora_alpha": alpha})
    points = initial_points(space)
    assert points
    assert all(space.contains(point) for point in points)
    assert not any(point in points[:index] for index, point in enumerate(points))


def test_published_points_of_the_default_space_stay_as_published() -> None:
    points = initial_points(SearchSpace())
    found = [(point.lora_rank, point.learning_rate, point.batch_size) for point in points]
    assert found == list(PUBLISHED)
    assert {point.lora_target for point in points} == {"all"}
    assert {point.cutoff_len for point in points} == {1024}


def test_prior_moves_to_the_nearest_values_of_the_space() -> None:
    space = make_space(
        lora_target=["qv", "qkvo"],
        lora_rank=[2, 24],
        batch_size=[3, 64],
        learning_rate={"min": 3e-4, "max": 6e-4},
    )
    first, second, third, *_ = initial_points(space)
    assert (first.lora_rank, first.learning_rate, first.batch_size) == (24, 3e-4, 64)
    assert (second.lora_rank, second.learning_rate, second.batch_size) == (24, 5e-4, 64)
    assert (third.lora_rank, third.learning_rate, third.batch_size) == (24, 6e-4, 64)
    assert first.lora_target == "qkvo", "the largest set where `all` is not searched"


def test_space_of_one_point_has_one_prior() -> None:
    space = make_space(
        optim="adamw_8bit",
        lora_target="qv",
        lora_rank=8,
        cutoff_len=512,
        batch_size=4,
        learning_rate=1e-4,
    )
    assert len(initial_points(space)) == 1
