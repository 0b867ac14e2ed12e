"""`why N`: what ended a trial, with the figures that decided it."""

from __future__ import annotations

from typing import Any

import pytest

from vram_search.store import Evaluation, StepLoss
from vram_search.units import GIB, MIB

Ask = Any
Search = Any
PARTS = {"logits": 6 * GIB, "context": 2 * GIB, "adapter": GIB}
JUDGED = {"margin": 0.1, "budget_bytes": 10 * GIB, "parts": PARTS}


def curve(*losses: float | None) -> list[Evaluation]:
    """Evaluations at 1/9, 1/3 and the end."""
    fractions = (1 / 9, 1 / 3, 1.0)
    return [Evaluation(round(54 * f), f, loss) for f, loss in zip(fractions, losses, strict=False)]


def test_pruned_trial_is_shown_beside_those_it_was_compared_with(ask: Ask, search: Search) -> None:
    """Trial 4 is complete only later, and says nothing of the decision."""
    for loss in (1.2, 1.4, 1.8):
        search.add(evaluations=curve(2.0, loss, 1.0))
    behind = {"stage": "train", "step": 18, "message": "behind other trials at step 18 of 54"}
    search.add("pruned", loss=1.5, evaluations=curve(1.9, 1.5), error=behind)
    search.add(evaluations=curve(2.0, 0.1, 1.0))
    figures = ask("why", 3, "--json").json["figures"]
    assert figures == {
        "stage": "train",
        "step": 18,
        "rung": pytest.approx(1 / 3),
        "lowest_eval_loss": 1.5,
        "compared_trials": 3,
        "lower_trials": 2,
        "median": 1.4,
    }
    words = ask("why", 3).words
    assert "trial 3 was pruned: it was behind the others, in stage train at step 18 of 54" in words
    assert "lowest eval_loss up to 33 % of the run was 1.5000" in words
    assert (
        "at this point 2 of the 3 complete trials had been better: median 1.4000, lowest 1.2000"
        in words
    )
    assert "above the median of the complete trials is stopped" in words


def test_trial_that_gp_pruned_is_shown_beside_all_that_reached_its_rung(
    ask: Ask, search: Search
) -> None:
    """Complete or not. Trial 4 was lost, trial 5 began trial 0 again, trial 7 came later."""
    search.choose_by([0, "gp"])
    rates = [{"learning_rate": n * 1e-4} for n in range(1, 9)]
    search.add("pruned", evaluations=curve(2.0, 1.8), hyperparameters=rates[0])
    for number, loss in ((1, 1.2), (2, 1.4), (3, 1.6)):
        search.add("pruned", evaluations=curve(2.0, loss), hyperparameters=rates[number])
    search.add("lost", evaluations=curve(2.0, 0.1), hyperparameters=rates[4])
    search.add(evaluations=curve(2.0, 1.8, 0.9), hyperparameters=rates[0], retry_of=0)
    search.add("pruned", loss=1.5, evaluations=curve(1.3, 1.5), hyperparameters=rates[6])
    search.add(evaluations=curve(2.0, 0.1, 0.1), hyperparameters=rates[7])
    assert ask("why", 6, "--json").json["figures"] == {
        "rung": pytest.approx(1 / 3),
        "rung_eval_loss": 1.5,
        "compared_configurations": 5,
        "lower_configurations": 2,
        "best_third": 1.4,
    }
    words = ask("why", 6).words
    assert "trial 6 was pruned: another configuration promised more for the time" in words
    assert "its eval_loss at 33 % of the run was 1.5000" in words
    assert "at this point 2 of the 4 other configurations had been better" in words
    assert "the best third (eval_loss up to 1.4000) always continues" in words
    assert "it was not among the best third, and a new trial promised clearly more" in words
    assert "median" not in words


def test_pruned_trial_is_told_by_the_strategy_that_chose_then(ask: Ask, search: Search) -> None:
    """A study that an earlier version began with tpe may go on with gp."""
    search.choose_by([0, "tpe"], [2, "gp"])
    search.add(evaluations=curve(2.0, 1.2, 1.0))
    for rate in (1e-4, 3e-4):
        rates = {"learning_rate": rate}
        search.add("pruned", evaluations=curve(1.9, 1.5), hyperparameters=rates)
    assert "the median of the complete trials is stopped" in ask("why", 1).words
    assert "it was not among the best third" in ask("why", 2).words


def test_stopped_trial_that_began_again_is_not_called_lost(ask: Ask, search: Search) -> None:
    search.choose_by([0, "gp"])
    search.add("pruned", evaluations=curve(1.9, 1.5))
    search.add(evaluations=curve(1.9, 1.5, 1.0), retry_of=0)
    search.add("lost", loss=None, retry_of=0, error={"stage": "train", "step": 9})
    again = "restarted: trial 0 was stopped too early"
    assert "restarted, since it was stopped too early: trial 1" in ask("why", 0).words
    for trial in (1, 2):
        assert again in ask("why", trial).words
        assert again in ask("show", trial).words
    assert ask("why", 2, "--json").json["figures"]["lost_in_a_row"] == 1
    assert "stopped too early and restarted: 0 as 1, 0 as 2" in ask("top", "--all").words
    assert "restarted" not in ask("top").words, "the stopped one is not in the table"


def test_pruned_for_a_loss_that_was_no_number(ask: Ask, search: Search) -> None:
    search.add("pruned", loss=1.9, evaluations=curve(1.9, None))
    assert "its loss at 33 % of the run was not a finite number" in ask("why", 0).words


def test_infeasible_trial_is_told_with_margin_and_budget(ask: Ask, search: Search) -> None:
    error = {"stage": "plan", "message": "too large", "remedy": "a shorter cutoff_len lowers it"}
    search.add("infeasible", loss=None, gib=10, predicted=JUDGED, error=error)
    answer = ask("why", 0, "--json").json
    assert answer["outcome"] == "infeasible"
    assert answer["figures"]["excess"] == pytest.approx(0.1)
    words = ask("why", 0).words
    assert (
        "predicted: 10.00 GiB needed, 11.00 GiB with the margin of 10.0 %; 1.00 GiB over the "
        "VRAM limit of 10.00 GiB" in words
    )
    assert "the largest parts: logits 6.00 GiB, adapter 1.00 GiB" in words
    assert "that was the smallest plan: micro-batch 4 x 2, gradient checkpointing" in words
    assert "remedy: a shorter cutoff_len lowers it" in words


def test_out_of_memory_is_told_with_what_was_held_and_predicted(ask: Ask, search: Search) -> None:
    error = {
        "stage": "train",
        "step": 2,
        "message": "CUDA out of memory",
        "requested_bytes": 594 * MIB,
        "batch_shape": [4, 384],
        "parts": {"base_weights": 2 * GIB, "other": 7 * GIB},
    }
    search.add(
        "oom",
        loss=None,
        gib=9,
        predicted={**JUDGED, "margin": 0.01},
        error=error,
        measured={"required_ratio_above": 1.12},
        seconds={"oom": 63.0},
    )
    words = ask("why", 0).words
    assert "trial 0 ran out of memory, in stage train at step 2 of 54" in words
    assert "the batch had 4 rows, the longest of 384 tokens" in words
    assert "594 MiB could not be allocated" in words
    assert "9.00 GiB were allocated then, the largest: other 7.00 GiB" in words
    assert "9.09 GiB with the margin of 1.0 %; 932 MiB within the VRAM limit of 10.00 GiB" in words
    assert "faster plans had run out of memory before, in 1 min 3 s" in words
    assert "planned with a margin of 12.0 %, or more" in words
    assert "although it was predicted not to fit" not in words


def test_out_of_memory_by_others_or_against_the_prediction_is_told_so(
    ask: Ask, search: Search
) -> None:
    search.add("oom", loss=None, gib=9, error={"stage": "probe", "others_took_bytes": 2 * GIB})
    search.add("oom", loss=None, gib=10, predicted=JUDGED, error={"stage": "probe"})
    assert "other programs had taken 2.00 GiB of the VRAM limit" in ask("why", 0).words
    assert "although it was predicted not to fit (plan.skip_infeasible)" in ask("why", 1).words


def test_diverged_trial_is_told_with_its_last_losses_and_learning_rate(
    ask: Ask, search: Search
) -> None:
    search.add(hyperparameters={"learning_rate": 1e-4})
    search.add(hyperparameters={"learning_rate": 4e-4})
    steps = [StepLoss(1, 2.0), StepLoss(2, 1.5), StepLoss(3, 9.25), StepLoss(4, None)]
    error = {"stage": "train", "step": 4, "message": "loss nan, gradient norm nan at step 4"}
    hp = {"learning_rate": 2e-2}
    search.add("diverged", loss=None, hyperparameters=hp, step_losses=steps, error=error)
    words = ask("why", 2).words
    assert "loss nan, gradient norm nan at step 4" in words
    assert "was 9.2500 at step 3, the lowest 1.5000 at step 2" in words
    assert "its learning_rate was 2.0e-2; those of complete trials are 1.0e-4 to 4.0e-4" in words


def test_lost_trial_is_told_with_what_repeats_it(ask: Ask, search: Search) -> None:
    search.add("lost", loss=None, error={"stage": "train", "step": 9, "message": "interrupted"})
    assert "the next run of the study begins with it" in ask("why", 0).words
    search.add("lost", loss=None, retry_of=0)
    search.add("lost", loss=None, retry_of=1)
    assert "trial 1 repeats it: lost" in ask("why", 0).words
    words = ask("why", 2).words
    assert "repeats trial 1, which was lost" in words
    assert "lost 3 times in a row, it is not tried again" in words


def test_trial_that_nothing_ended_is_told_so(ask: Ask, search: Search) -> None:
    search.add(loss=1.0)
    search.add(loss=1.25)
    search.add(outcome=None)
    words = ask("why", 1).words
    assert "trial 1 finished" in words
    assert "rank 2 of 2 complete trials - 0.2500 above the best, trial 0" in words
    assert "trial 2 is running: nothing has ended it" in ask("why", 2).words


def test_figures_as_csv_are_a_row_each(ask: Ask, search: Search) -> None:
    search.add("infeasible", loss=None, gib=10, predicted=JUDGED)
    rows = {row["figure"]: row["value"] for row in ask("why", 0, "--csv").csv}
    assert rows["outcome"] == "infeasible"
    assert rows["budget_bytes"] == str(10 * GIB)


@pytest.mark.parametrize("outcome", ["pruned", "oom", "infeasible", "diverged", "lost"])
def test_record_that_says_little_is_no_obstacle(ask: Ask, search: Search, outcome: Any) -> None:
    search.add(outcome, loss=None, gib=None)
    answer = ask("why", 0)
    assert answer.words.startswith("trial 0 ")
