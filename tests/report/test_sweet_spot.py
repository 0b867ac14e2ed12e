"""The sweet spot, the Pareto front and the importances, on trials whose answer is known."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vram_search.report.figures import required_bytes
from vram_search.report.importance import FEWEST_TRIALS, epsilon_squared, importances, mean_ranks
from vram_search.report.pareto import pareto_front
from vram_search.report.sweet_spot import (
    best_loss_sums,
    find_sweet_spot,
    paired_standard_error,
)
from vram_search.store import Evaluation, TrialRecord
from vram_search.units import GIB

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
HARD_AND_EASY = [30.0, 10.0, 25.0, 15.0]
"""Summed losses of four examples of 20 tokens each: an eval_loss of 1."""


def trial(number: int, loss: float | None, gib: float | None = 8, **fields: Any) -> TrialRecord:
    unset = {name: None for name in TrialRecord.__dataclass_fields__}
    known: dict[str, Any] = {
        **unset,
        "number": number,
        "outcome": "complete",
        "hyperparameters": {},
        "eval_loss": loss,
        "eval_loss_step": 9,
        "predicted_required_bytes": None if gib is None else round(gib * GIB),
        "started_at": BEGAN,
        "finished_at": BEGAN + timedelta(minutes=10),
        **fields,
    }
    return TrialRecord(**known)


def shifted(by: list[float]) -> list[float]:
    return [loss + step for loss, step in zip(HARD_AND_EASY, by, strict=True)]


def test_sweet_spot_is_the_smallest_trial_within_one_standard_error() -> None:
    trials = [trial(0, 1.0, 12), trial(1, 1.005, 8), trial(2, 1.2, 4)]
    sums = {0: HARD_AND_EASY, 1: shifted([1.2, -1.0, 1.1, -0.9]), 2: shifted([4, 4, 4, 4.0])}
    spot = find_sweet_spot(trials, sums)
    assert spot is not None
    assert (spot.best.number, spot.trial.number) == (0, 1)
    assert [contender.trial.number for contender in spot.within] == [0, 1]
    assert "4.00 GiB less than the best" in spot.why


def test_difference_that_every_example_shows_is_no_tie_however_small() -> None:
    """Paired: examples differ far more among each other than the two trials do."""
    trials = [trial(0, 1.0, 12), trial(1, 1.005, 8)]
    spot = find_sweet_spot(trials, {0: HARD_AND_EASY, 1: shifted([0.1, 0.1, 0.1, 0.1])})
    assert spot is not None
    assert spot.trial.number == 0
    assert "no other trial is as good" in spot.why


def test_without_losses_per_example_only_an_equal_loss_ties() -> None:
    spot = find_sweet_spot([trial(0, 1.0, 12), trial(1, 1.0, 8), trial(2, 1.0001, 4)], {})
    assert spot is not None
    assert spot.trial.number == 1


def test_equal_bytes_are_decided_by_seconds() -> None:
    slow = trial(0, 1.0, 8, finished_at=BEGAN + timedelta(minutes=30))
    spot = find_sweet_spot([slow, trial(1, 1.0, 8)], {})
    assert spot is not None
    assert spot.trial.number == 1


def test_trial_of_unknown_bytes_is_not_the_sweet_spot() -> None:
    spot = find_sweet_spot([trial(0, 1.0, 12), trial(1, 1.0, None)], {})
    assert spot is not None
    assert spot.trial.number == 0


def test_no_complete_trial_has_no_sweet_spot() -> None:
    assert find_sweet_spot([trial(0, 1.0, outcome="pruned"), trial(1, None)], {}) is None


def test_standard_error_is_that_of_a_mean_per_token() -> None:
    """Differences 1, -1, 1, -1 over 80 tokens: sd 1.1547, times 2, over 80."""
    error = paired_standard_error(shifted([1, -1, 1, -1.0]), HARD_AND_EASY, 1.0)
    assert error == pytest.approx(math.sqrt(4 / 3) * 2 / 80)


@pytest.mark.parametrize("sums", [[1.0], [30.0, None, 25.0, 15.0]])
def test_unlike_or_partial_examples_have_no_standard_error(sums: list[float | None]) -> None:
    assert paired_standard_error(sums, HARD_AND_EASY, 1.0) is None


def test_losses_per_example_are_those_of_the_best_checkpoint() -> None:
    evaluations = [
        Evaluation(3, 0.3, 1.4, example_loss_sums=[1.0]),
        Evaluation(9, 1.0, 1.0, example_loss_sums=[2.0]),
        Evaluation(12, 1.0, 1.1, example_loss_sums=[3.0]),
    ]
    assert best_loss_sums(trial(0, 1.0), evaluations) == [2.0]


def test_pareto_front_pays_bytes_for_loss_alone() -> None:
    trials = [
        trial(0, 1.3, 4),
        trial(1, 1.2, 6),
        trial(2, 1.25, 7),
        trial(3, 1.0, 9),
        trial(4, 1.0, 9),
        trial(5, 0.5, 2, outcome="pruned"),
        trial(6, 0.9, None),
    ]
    assert [t.number for t in pareto_front(trials)] == [0, 1, 3]


def test_measured_required_bytes_come_before_predicted_ones() -> None:
    assert required_bytes(trial(0, 1.0, 8, measured_required_bytes=GIB)) == (GIB, "measured")
    assert required_bytes(trial(0, 1.0, 8)) == (8 * GIB, "predicted")


def searched(losses: dict[tuple[str, int], float]) -> list[TrialRecord]:
    """Trials of an optimizer and a rank, alpha following the rank."""
    return [
        trial(n, loss, hyperparameters={"optim": o, "lora_rank": r, "lora_alpha": 2 * r, "seed": 1})
        for n, ((o, r), loss) in enumerate(losses.items())
    ]


def test_hyperparameter_that_decides_the_loss_is_named_first() -> None:
    losses = {
        (optim, rank): 1.0 + 0.3 * (optim == "lion_8bit") + 0.001 * (rank % 7)
        for optim in ("adamw_8bit", "lion_8bit")
        for rank in (4, 8, 16, 32)
    }
    found = importances(searched(losses))
    assert [item.name for item in found] == ["optim", "lora_rank"]
    assert found[0].share > 0.7
    assert found[1].share == 0.0
    assert [(group.label, len(group.losses)) for group in found[0].groups] == [
        ("adamw_8bit", 4),
        ("lion_8bit", 4),
    ]


def test_chance_explains_little() -> None:
    """Five groups of ten random values explain 4/9 of their variance without the correction."""
    dice = random.Random(1)
    shares = [
        epsilon_squared([dice.random() for _ in range(10)], [place % 5 for place in range(10)])
        for _ in range(400)
    ]
    assert sum(shares) / len(shares) < 0.25


def test_groups_of_one_value_each_explain_nothing() -> None:
    assert epsilon_squared([1.0, 2.0, 3.0], [0, 1, 2]) == 0.0


def test_learning_rates_are_grouped_in_fifths() -> None:
    trials = [
        trial(n, 1.0 + n / 100, hyperparameters={"learning_rate": 1e-5 * 1.1**n}) for n in range(50)
    ]
    (found,) = importances(trials)
    assert [len(group.losses) for group in found.groups] == [10] * 5
    assert found.share > 0.9
    assert found.groups[0].label == "1.0e-5 to 2.4e-5"


def test_run_without_a_value_does_not_change_what_the_others_say() -> None:
    """One imported run without its learning rate made a group of each other value."""
    known = [
        trial(n, 1.0 + n / 100, hyperparameters={"learning_rate": 1e-5 * 1.1**n}) for n in range(50)
    ]
    lacking = trial(50, 0.5, hyperparameters={"learning_rate": None})
    assert importances([*known, lacking]) == importances(known)


def test_few_trials_say_nothing() -> None:
    trials = [trial(n, 1.0 + n, hyperparameters={"lora_rank": n}) for n in range(FEWEST_TRIALS - 1)]
    assert importances(trials) == []


def test_equal_losses_share_a_rank() -> None:
    assert mean_ranks([3.0, 1.0, 3.0, 9.0]) == [2.5, 1.0, 2.5, 4.0]
