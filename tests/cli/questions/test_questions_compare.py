"""`compare N M`: what differs between two trials, and what it did."""

from __future__ import annotations

from typing import Any

import pytest

from vram_search.store import Evaluation
from vram_search.units import GIB

Ask = Any
Search = Any


def evaluated(fraction: float, shifts: list[float]) -> Evaluation:
    sums = [20 + shift for shift in shifts]
    return Evaluation(round(54 * fraction), fraction, sum(sums) / 80, example_loss_sums=sums)


def test_differences_are_the_second_less_the_first(ask: Ask, search: Search) -> None:
    parts = {"base_weights": 2 * GIB, "logits": GIB}
    search.add(
        gib=8,
        shifts=[0, 0, 0, 0],
        predicted={"parts": parts},
        measured={"step_seconds": 2.0, "reserved_bytes": 8 * GIB},
    )
    search.add(
        gib=6,
        shifts=[2, 0, 2, 0],
        hyperparameters={"cutoff_len": 384},
        plan={"gradient_checkpointing": False},
        predicted={"parts": {**parts, "logits": GIB // 2}},
        measured={"step_seconds": 1.5, "reserved_bytes": 7 * GIB},
        minutes=8,
    )
    found = ask("compare", 0, 1, "--json").json
    assert found["differs"] == {
        "hyperparameters": {"cutoff_len": [512, 384]},
        "plan": {"gradient_checkpointing": [True, False]},
        "circumstances": {},
    }
    loss = found["eval_loss"]
    assert (loss["at"], loss["examples"]) == ("best checkpoint", 4)
    assert loss["difference"] == pytest.approx(4 / 80)
    assert loss["standard_error"] == pytest.approx((4 / 3) ** 0.5 * 2 / 80)
    assert found["bytes"]["required_bytes"]["difference"] == -2 * GIB
    assert found["bytes"]["reserved_bytes"]["difference"] == -GIB
    assert found["parts"] == {
        "logits": {
            "origin": "predicted",
            "first": GIB,
            "second": GIB // 2,
            "difference": -GIB // 2,
        }
    }
    assert found["seconds"]["total"]["difference"] == -120
    assert found["seconds"]["step_seconds"]["difference"] == -0.5
    assert found["notes"] == []
    words = ask("compare", 0, 1).words
    assert "cutoff_len 512 384" in words
    assert "eval_loss 1.0000 1.0500 +0.0500" in words
    assert "standard error 0.0289: the difference is 1.7 times that" in words
    assert "VRAM needed (predicted) 8.00 GiB 6.00 GiB -2.00 GiB" in words
    assert "time, total 10 min 0 s 8 min 0 s -2 min 0 s" in words


def test_difference_within_its_standard_error_is_none_that_is_shown(
    ask: Ask, search: Search
) -> None:
    search.add(shifts=[0, 0, 0, 0])
    search.add(shifts=[1.2, -1.0, 1.1, -0.9], hyperparameters={"lora_rank": 8, "lora_alpha": 16})
    answer = ask("compare", "best", 1)
    assert "within it, so no difference is shown" in answer.words
    assert "several hyperparameters" not in answer.words


def test_trial_that_was_cut_short_is_compared_where_both_were_evaluated(
    ask: Ask, search: Search
) -> None:
    """The run of 50 steps was evaluated at 0.12 of it, near the rung at 1/9."""
    search.add(
        evaluations=[
            evaluated(0.12, [8, 8, 8, 8]),
            evaluated(0.34, [4, 4, 4, 4]),
            evaluated(1.0, [0, 0, 0, 0]),
        ]
    )
    first_rung, second_rung = evaluated(0.11, [9, 9, 9, 9]), evaluated(1 / 3, [7, 7, 7, 7])
    search.add("pruned", loss=1.45, evaluations=[first_rung])
    search.add("pruned", loss=1.35, evaluations=[first_rung, second_rung])
    loss = ask("compare", 0, 1, "--json").json["eval_loss"]
    assert loss["at"] == "11 % of the run"
    assert loss["difference"] == pytest.approx(4 / 80)
    words = ask("compare", 0, 2).words
    assert "+0.1500 at 33 % of the run" in words
    assert "not both are complete" in words


def test_trials_without_a_common_evaluation_have_no_difference(ask: Ask, search: Search) -> None:
    search.add()
    search.add("infeasible", loss=None, gib=20)
    assert ask("compare", 0, 1, "--json").json["eval_loss"] is None
    assert "there is no point at which both have one" in ask("compare", 0, 1).words


def test_required_bytes_are_compared_like_with_like(ask: Ask, search: Search) -> None:
    search.add(gib=8, measured={"required_bytes": 9 * GIB})
    search.add(gib=6)
    required = ask("compare", 0, 1, "--json").json["bytes"]["required_bytes"]
    assert (required["origin"], required["difference"]) == ("predicted", -2 * GIB)


def test_unknown_standard_error_is_said(ask: Ask, search: Search) -> None:
    search.add()
    search.add(loss=1.2, hyperparameters={"lora_rank": 8, "optim": "lion_8bit"})
    words = ask("compare", 0, 1).words
    assert "losses per example are not recorded: no standard error" in words
    assert "2 settings differ" in words


def test_long_values_stay_within_the_terminal(ask: Ask, search: Search) -> None:
    search.add()
    modules = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    search.add(hyperparameters={"lora_target": modules})
    assert f"trial 0: all trial 1: {modules}" in ask("compare", 0, 1).words


def test_csv_has_a_row_for_each_difference_and_figure(ask: Ask, search: Search) -> None:
    search.add(shifts=[0, 0, 0, 0])
    search.add(shifts=[4, 4, 4, 4], hyperparameters={"lora_rank": 8})
    rows = {(row["kind"], row["name"]): row for row in ask("compare", 0, 1, "--csv").csv}
    rank = rows["hyperparameter", "lora_rank"]
    assert (rank["first"], rank["second"]) == ("16", "8")
    assert float(rows["loss", "eval_loss"]["difference"]) == pytest.approx(0.2)
    assert rows["bytes", "required_bytes"]["difference"] == "0"


@pytest.mark.parametrize("numbers", [(0, 0), ("best", 0), (0, 7), (0, "x")])
def test_comparison_needs_two_trials_of_the_study(
    ask: Ask, search: Search, numbers: tuple[object, object]
) -> None:
    search.add()
    answer = ask("compare", *numbers)
    assert (answer.code, answer.out) == (2, "")


def test_comparison_begins_with_a_sentence(ask: Ask, search: Search) -> None:
    search.add(loss=1.2, gib=8)
    search.add(loss=1.0, gib=6, hyperparameters={"lora_rank": 8})
    search.add(loss=1.0005, gib=6, hyperparameters={"lora_rank": 4})
    assert ask("compare", 0, 1).words.startswith(
        "Trial 1 is better by 0.2000; trial 1 needs 2.00 GiB less VRAM."
    )
    assert ask("compare", 1, 2).words.startswith("Trials 1 and 2 show no practical difference")
