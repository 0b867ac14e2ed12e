"""How many trials run at once on a card: only as many as are predicted to gain time."""

from __future__ import annotations

import pytest

from tests.factories import make_point
from vram_search.estimate import PlannedTrial, plans
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.side_by_side import (
    predicted_gain,
    share_of_card,
    trials_side_by_side,
)
from vram_search.estimate.step_time import Speed, card_share
from vram_search.resources import shipped
from vram_search.spec import load_shape
from vram_search.spec.card import Card, load_card
from vram_search.spec.plan import PlanPins
from vram_search.units import GIB

MEASURED = [
    ("qwen2.5-0.5b", 4, 512, {2: 1.54, 4: 2.20}),
    ("qwen2.5-3b", 2, 512, {2: 1.55, 4: 2.34}),
    ("qwen2.5-3b", 4, 1024, {2: 1.47, 4: 1.51}),
    ("qwen2.5-7b", 2, 1024, {2: 1.33, 4: 1.23}),
]
"""Gains of k trainings side by side on an H200 with 16 cores: model, micro-batch, tokens."""


def card(name: str) -> Card:
    return Card.model_validate(load_card(name))


def candidates(name: str, model: str, micro_batch: int, cutoff_len: int) -> list[PlannedTrial]:
    pins = PlanPins(per_device_train_batch_size=micro_batch, gradient_checkpointing=True)
    point = make_point(batch_size=micro_batch, cutoff_len=cutoff_len)
    shape = load_shape(shipped("configs", "models", model))
    return plans(shape, point, card(name), pins, eval_cutoff_len=512)


def chosen(name: str, model: str, micro_batch: int, cutoff_len: int, cores: int = 16) -> int:
    found = candidates(name, model, micro_batch, cutoff_len)
    shape = load_shape(shipped("configs", "models", model))
    limit = MemoryBudget.of(card(name), shape)
    speed = Speed.of(card(name))
    return trials_side_by_side(
        [found], limit.memory, limit.budget_bytes, limit.margin, speed, cores
    )


@pytest.mark.parametrize(("model", "micro_batch", "cutoff_len", "gains"), MEASURED)
def test_predicted_gains_are_those_measured_on_an_h200(
    model: str, micro_batch: int, cutoff_len: int, gains: dict[int, float]
) -> None:
    planned = candidates("h200-141gb", model, micro_batch, cutoff_len)[0]
    share = card_share(planned.estimate.workload, Speed.of(card("h200-141gb")))
    for count, gain in gains.items():
        assert predicted_gain(count, share) == pytest.approx(gain, rel=0.1)


def test_one_trial_after_the_other_gains_nothing() -> None:
    assert predicted_gain(1, 0.1) == 1.0


def test_small_steps_on_a_large_card_run_side_by_side() -> None:
    assert chosen("h200-141gb", "qwen2.5-0.5b", 4, 512) == 4
    assert chosen("h200-141gb", "qwen2.5-3b", 2, 512) == 4


def test_card_that_is_busy_with_one_trial_runs_one() -> None:
    assert chosen("rtx-5060-ti-16gb", "qwen2.5-0.5b", 4, 512) == 1
    assert chosen("rtx-5060-ti-16gb", "qwen2.5-3b", 4, 1024) == 1


def test_host_without_free_cores_runs_fewer_trials() -> None:
    assert chosen("h200-141gb", "qwen2.5-0.5b", 4, 512, cores=4) == 2
    assert chosen("h200-141gb", "qwen2.5-0.5b", 4, 512, cores=2) == 1


def test_point_that_fits_only_the_whole_card_keeps_it_whole() -> None:
    large, small = (candidates("h200-141gb", "qwen2.5-0.5b", 4, size) for size in (65_536, 512))
    shape = load_shape(shipped("configs", "models", "qwen2.5-0.5b"))
    limit = MemoryBudget.of(card("h200-141gb"), shape)
    needs = min(planned.estimate.required_bytes for planned in large)
    assert share_of_card(limit.memory, 2).budget_bytes < needs
    speed = Speed.of(card("h200-141gb"))
    budget = needs + 10 * GIB
    assert trials_side_by_side([small, large], limit.memory, budget, 0.02, speed, 16) == 1
    assert trials_side_by_side([small], limit.memory, budget, 0.02, speed, 16) == 4


def test_parts_of_a_card_add_up_to_it() -> None:
    memory = MemoryBudget.of(
        card("rtx-5060-ti-16gb"), load_shape(shipped("configs", "models", "qwen2.5-0.5b"))
    ).memory
    part = share_of_card(memory, 4)
    used = 4 * (part.budget_bytes + part.context_bytes + part.reserve_bytes)
    assert used <= memory.total_bytes
    assert part.context_bytes == memory.context_bytes, "each process has a context of its own"
