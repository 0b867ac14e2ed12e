"""Over which distances losses change is learned from earlier searches."""

from __future__ import annotations

import numpy as np

from vram_search.search.gp.length_scales import learned_scales
from vram_search.search.gp.surrogate import Task

USUAL = np.array([1.0, 1.0, 2.0])


def task(seed: int, weights: tuple[float, float]) -> Task:
    """An earlier search whose losses are waves along two coordinates; the third never varies."""
    draw = np.random.default_rng(seed)
    points = np.column_stack([draw.uniform(-2, 2, (60, 2)), np.ones(60)])
    losses = np.sin(points[:, :2] * np.array(weights)).sum(axis=1)
    return Task(points, (losses - losses.mean()) / losses.std())


def test_a_coordinate_along_which_losses_change_fast_gets_a_shorter_scale() -> None:
    scales = learned_scales([task(1, (3.0, 0.3)), task(2, (3.0, 0.3))], USUAL)
    assert scales[0] < 1 < scales[1]
    turned = learned_scales([task(1, (0.3, 3.0))], USUAL)
    assert turned[1] < 1 < turned[0]


def test_a_coordinate_that_no_earlier_search_varied_keeps_its_scale() -> None:
    assert learned_scales([task(1, (3.0, 0.3))], USUAL)[2] == 2.0


def test_without_earlier_searches_the_scales_are_the_usual_ones() -> None:
    assert learned_scales([], USUAL).tolist() == USUAL.tolist()


def test_few_losses_move_the_scales_less() -> None:
    many = task(1, (3.0, 0.3))
    few = Task(many.points[:6], many.losses[:6])
    moved = np.abs(np.log(learned_scales([few], USUAL) / USUAL)).sum()
    assert moved < np.abs(np.log(learned_scales([many], USUAL) / USUAL)).sum()
