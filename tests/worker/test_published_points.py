"""Which points a search begins with: the study's own, then published configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import vram_search
from tests.fake_trainer import COMMAND as FAKE_TRAINER
from vram_search.resources import shipped
from vram_search.spec import load_study
from vram_search.worker import process
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


def test_points_of_the_study_file_are_tried_first_and_once(
    home: Path, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "COMMAND", FAKE_TRAINER)
    points = [{"lora_rank": 8, "learning_rate": "2e-3"}, {"lora_rank": 4, "learning_rate": 3e-3}]
    study = vram_search.load_study(write_study(points=points))
    for trials in (1, 3):  # the second run finds the first point tried
        vram_search.run_study(study, trials=trials)
    with vram_search.open_store() as store:
        tried = [
            (trial.hyperparameters["lora_rank"], trial.hyperparameters["learning_rate"])
            for trial in store.trials("tiny").trials
        ]
    assert tried[:2] == [(8, 2e-3), (4, 3e-3)]
    assert len(set(tried)) == 3
