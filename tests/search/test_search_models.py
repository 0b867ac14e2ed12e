"""A search over several base models groups its trials, because loading a model takes time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.factories import make_point, make_space
from vram_search.search.gp.acquisition import Acquisition
from vram_search.search.gp.rules import GpRules
from vram_search.search.model_costs import ModelCosts
from vram_search.search.observations import Observation
from vram_search.search.problem import Problem
from vram_search.spec import Hyperparameters
from vram_search.spec.hyperparameters import ModelPlace

NAMES = ("small", "large")
SPACE = make_space(
    optim="adamw_8bit",
    lora_target="all",
    lora_rank=16,
    cutoff_len=512,
    batch_size=8,
    learning_rate={"min": 1e-5, "max": 1e-2},
).with_models(NAMES)


def at(model: str, learning_rate: float) -> Hyperparameters:
    return make_point(learning_rate=learning_rate, model=model)


def problem(resident: str | None, load_seconds: float, *first: Hyperparameters) -> Problem:
    places = {"small": ModelPlace(-1.0, 1.0), "large": ModelPlace(1.0, 1.0)}
    costs = ModelCosts(dict.fromkeys(NAMES, 100.0), dict.fromkeys(NAMES, load_seconds), resident)
    found = Problem(SPACE, (), initial_points=first, models=places)
    found.model_costs = costs
    return found


def proposed(
    acquisition: Acquisition, seen: list[Observation], candidates: Sequence[Hyperparameters] = ()
) -> Hyperparameters:
    choice = acquisition.propose(seen, candidates).choice
    assert isinstance(choice, Hyperparameters)
    return choice


def complete(number: int, point: Hyperparameters, loss: float) -> Observation:
    return Observation(number, point, (), loss)


@pytest.mark.parametrize("resident", NAMES)
def test_first_points_of_the_model_on_the_card_come_first(resident: str) -> None:
    first = [at("small", 1e-4), at("large", 1e-4), at("small", 3e-4), at("large", 3e-4)]
    acquisition = Acquisition(problem(resident, 60.0, *first), GpRules())
    seen: list[Observation] = []
    for number in range(4):
        point = proposed(acquisition, seen)
        seen.append(complete(number, point, 1.0))
    other = next(name for name in NAMES if name != resident)
    assert [one.hyperparameters.model for one in seen] == [resident] * 2 + [other] * 2


@pytest.mark.parametrize("resident", NAMES)
def test_of_equal_points_that_of_the_model_on_the_card_is_tried(resident: str) -> None:
    acquisition = Acquisition(problem(resident, 60.0), GpRules())
    rates = (1e-4, 1e-3)
    seen = [
        complete(number, at(name, rate), 1.0 + rate * 100)
        for number, (name, rate) in enumerate((n, r) for n in NAMES for r in rates)
    ]
    candidates = [at(name, 2e-4) for name in NAMES]
    assert proposed(acquisition, seen, candidates).model == resident


def test_a_better_model_is_loaded_although_that_takes_time() -> None:
    acquisition = Acquisition(problem("small", 60.0), GpRules())
    rates = (5e-5, 1e-4, 1e-3, 2e-3)
    seen = [
        complete(number, at(name, rate), level + rate * 10)
        for number, (name, rate, level) in enumerate(
            (n, r, x) for n, x in (("small", 2.0), ("large", 1.0)) for r in rates
        )
    ]
    candidates = [at(name, 2e-5) for name in NAMES]
    assert proposed(acquisition, seen, candidates).model == "large"
