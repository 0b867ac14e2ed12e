"""Coordinates of hyperparameters, and what earlier searches become for a new one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.curves import knowledge as written
from tests.factories import make_space
from vram_search.search.gp import transfer
from vram_search.search.gp.features import features, scales, surrogate_dimensions
from vram_search.search.gp.transfer import (
    FEWEST_TRIALS,
    LEARNING_RATE_EXPONENT,
    MOST_TASKS,
    MOST_TRIALS,
    SourceTask,
    shipped,
    tasks,
    without_tail,
)
from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.spec.hyperparameters import MAIN, Frame
from vram_search.spec.lora_targets import LORA_TARGET_SETS
from vram_search.spec.optimizers import OPTIMIZERS

LONGEST = 4096


def point(**changes: object) -> Hyperparameters:
    values = {
        "optim": "adamw_8bit",
        "lora_target": "qv",
        "lora_rank": 16,
        "lora_alpha": 32,
        "cutoff_len": 512,
        "batch_size": 8,
        "learning_rate": 2e-4,
    }
    return Hyperparameters.model_validate({**values, **changes})


def experience(
    losses: list[float], name: str = "earlier", hidden_size: int | None = 576
) -> SourceTask:
    rate = 1e-4
    points = [point(learning_rate=rate * (1 + place)) for place in range(len(losses))]
    return SourceTask(name, hidden_size, tuple(zip(points, losses, strict=True)))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("learning_rate", [1e-5, 1e-4, 1e-3]),
        ("lora_rank", [4, 8, 64]),
        ("cutoff_len", [128, 512, 4096]),
        ("batch_size", [1, 8, 32]),
        ("lora_target", ["qv", "qkvo", "qkvo_gu", "all"]),
    ],
)
def test_one_coordinate_grows_with_the_value_and_the_others_stay(
    name: str, values: list[object]
) -> None:
    steps = np.diff(features([point(**{name: value}) for value in values], Frame(LONGEST)), axis=0)
    moved = (steps != 0).any(axis=0)
    assert moved.sum() == 1
    assert (steps[:, moved] > 0).all()


POINTS = st.builds(
    point,
    optim=st.sampled_from(list(OPTIMIZERS)),
    lora_target=st.sampled_from([*LORA_TARGET_SETS, "all", "q_proj", "q_proj,wx,wy", "unheard_of"]),
    lora_rank=st.integers(1, 1024),
    cutoff_len=st.integers(16, LONGEST),
    batch_size=st.integers(1, 1024),
    learning_rate=st.floats(1e-7, 1.0),
)


@given(st.lists(POINTS, max_size=5))
def test_any_points_have_coordinates_of_a_few_scales(points: list[Hyperparameters]) -> None:
    coordinates = features(points, Frame(LONGEST))
    assert coordinates.shape == (len(points), len(scales(MAIN)))
    assert (np.abs(coordinates) <= 7).all()
    assert ((coordinates[:, [2, 5, 6]] >= 0) & (coordinates[:, [2, 5, 6]] <= 1)).all()
    assert (coordinates[:, 3] <= 0).all()


def test_shipped_knowledge_is_what_the_tables_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise: python -m bench.curves.knowledge."""
    there = Path(transfer.__file__).with_name("knowledge.json").read_text("utf-8")
    monkeypatch.setattr(transfer, "__file__", str(tmp_path / "knowledge.py"))
    written.main()
    assert (tmp_path / "knowledge.json").read_text("utf-8") == there


def test_shipped_knowledge_becomes_two_tasks() -> None:
    assert [one.name for one in shipped()] == ["toolcalls", "triz"]
    assert all(one.hidden_size == 576 for one in shipped())
    assert [len(task.losses) for task in tasks(shipped(), 2048)] == [150, 150]


@given(st.lists(st.floats(1e-3, 1e3), min_size=FEWEST_TRIALS, max_size=30))
def test_losses_of_a_task_have_mean_0_and_deviation_1(losses: list[float]) -> None:
    for task in tasks([experience(losses)], 576):
        assert task.losses.mean() == pytest.approx(0, abs=1e-4)
        assert task.losses.std() == pytest.approx(1, abs=1e-4)


def test_learning_rates_are_those_of_the_model_that_is_searched_for() -> None:
    """They fall with the hidden size; where one is not known they stay."""
    losses = [1.0, 1.1, 1.2, 1.3, 1.4]
    (same,) = tasks([experience(losses)], 576)
    (larger,) = tasks([experience(losses)], 5760)
    (unknown,) = tasks([experience(losses, hidden_size=None)], 5760)
    assert larger.points[:, 0] == pytest.approx(same.points[:, 0] - LEARNING_RATE_EXPONENT)
    assert larger.points[:, 1:] == pytest.approx(same.points[:, 1:])
    assert unknown.points == pytest.approx(same.points)


def test_cutoffs_are_shares_of_the_longest_of_their_own_search() -> None:
    cutoffs = (128, 256, 512, 512, 512)
    trials = [(point(cutoff_len=cutoff), 1 + 1 / cutoff) for cutoff in cutoffs]
    (task,) = tasks([SourceTask("short", 576, tuple(trials))], 576)
    assert task.points[:, 3].tolist() == [-1, -0.5, 0, 0, 0]


@pytest.mark.parametrize(
    "losses",
    [
        [1.0 + place for place in range(FEWEST_TRIALS - 1)],
        [1.0, 1.1, 1.2, 1.3, 0.0],
        [1.0, 1.1, 1.2, 1.3, float("inf")],
        [1.0] * FEWEST_TRIALS,
        [],
    ],
)
def test_too_few_or_equal_losses_teach_nothing(losses: list[float]) -> None:
    assert tasks([experience(losses)], 576) == []


def test_first_tasks_are_kept_and_no_further_search_is_read() -> None:
    read = []

    def searches() -> Iterator[SourceTask]:
        for place in range(9):
            read.append(place)
            yield experience([1.0 + place + step for step in range(FEWEST_TRIALS)])

    assert len(tasks(searches(), 576)) == MOST_TASKS
    assert read == list(range(MOST_TASKS + 1))


def test_many_trials_are_thinned_and_the_best_and_the_worst_stay() -> None:
    losses = [1.0 + 0.001 * place for place in range(400)]
    two = tasks([experience(losses), experience(losses)], 576)
    assert [len(task.losses) for task in two] == [MOST_TRIALS // 2] * 2
    best = features([point(learning_rate=1e-4)], Frame(512))
    assert two[0].points[0] == pytest.approx(best[0])
    assert len(np.unique(two[0].points[:, 0])) == MOST_TRIALS // 2
    few = tasks([experience(losses[:100])] * 2, 576)
    assert [len(task.losses) for task in few] == [100, 100]


def test_worst_losses_move_up_to_the_rest_in_their_order() -> None:
    assert without_tail([1.0, 2.0, 3.0, 4.0, 100.0]) == pytest.approx([1, 2, 3, 4, 5])


def test_dropout_is_a_coordinate_only_of_a_search_that_varies_it() -> None:
    plain = surrogate_dimensions(SearchSpace())
    assert plain == MAIN
    varied = surrogate_dimensions(make_space(lora_dropout=[0, 0.1], lora_alpha={"ratio": [1, 2]}))
    assert [one.name for one in varied[len(MAIN) :]] == ["lora_alpha", "lora_dropout"]
    points = [point(), point(lora_dropout=0.1), point(lora_alpha=64)]
    before, after = features(points, Frame(512), plain), features(points, Frame(512), varied)
    assert (before[1:] == before[0]).all()
    assert (after[:, : before.shape[1]] == before).all()
    assert after[:, -2:].tolist() == [[1.0, 0.0], [1.0, 0.1], [2.0, 0.0]]
