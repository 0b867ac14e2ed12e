"""How many published configurations a search begins with."""

from __future__ import annotations

import pytest

from vram_search.resources import shipped
from vram_search.spec import load_study
from vram_search.worker.run import published_points
from vram_search.worker.stop_rule import StopRule


@pytest.mark.parametrize(
    ("strategy", "trials", "points"),
    [
        ("gp", None, 3),
        ("gp", 20, 3),
        ("gp", 6, 1),
        ("gp", 2, 0),
        ("tpe", None, 7),
        ("tpe", 6, 3),
        ("tpe", 1, 1),
        ("random", 8, 4),
    ],
)
def test_half_of_a_small_budget_is_left_for_the_search(
    strategy: str, trials: int | None, points: int
) -> None:
    study = load_study(shipped("studies", "td-010.yaml"), [f"strategy={strategy}"])
    assert len(published_points(study, StopRule(trials))) == points
    without = load_study(shipped("studies", "td-010.yaml"), ["enqueue_priors=false"])
    assert not published_points(without, StopRule(trials))


@pytest.mark.parametrize("trials", [None, 20, 2])
def test_every_base_model_is_tried_and_the_first_trials_are_grouped_by_model(
    trials: int | None,
) -> None:
    study = load_study(shipped("studies", "td-010-models.yaml"))
    models = [point.model for point in published_points(study, StopRule(trials))]
    assert models == ["qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b"]
