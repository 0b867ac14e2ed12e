"""Which figures count as agreement, and which do not."""

from __future__ import annotations

import math

import pytest

from vram_search.store import StepLoss
from vram_search.units import GIB
from vram_search.verify.compare import (
    PredictedPeak,
    batch_mean,
    compare_eval_loss,
    compare_first_loss,
    compare_learning_rates,
    compare_peak,
    compare_reproduced,
    compare_rows,
)
from vram_search.verify.llamafactory_rows import describe

ROWS = [("a", 20, 5), ("b", 30, 6), ("c", 25, 7)]


def steps(*rates: float, loss: float = 2.0) -> dict[int, StepLoss]:
    return {n: StepLoss(n, loss, rate) for n, rate in enumerate(rates, start=1)}


def test_the_mean_is_over_batches_weighted_by_their_rows() -> None:
    # batches of two rows: 6 nats over 3 tokens, 3 nats over 3 tokens; then one row alone
    sums, tokens = [4.0, 2.0, 1.0, 2.0, 9.0], [1, 2, 2, 1, 3]
    assert batch_mean(sums, tokens, 2) == pytest.approx((2 * 2.0 + 2 * 1.0 + 3.0) / 5)
    assert batch_mean(sums, tokens, 5) == pytest.approx(18 / 9)


def test_the_mean_of_a_batch_without_answers_is_unknown() -> None:
    assert math.isnan(batch_mean([0.0, 1.0], [0, 1], 1))


def test_rows_agree_when_tokens_and_mask_are_the_same() -> None:
    assert compare_rows("train", ROWS, list(ROWS)).agrees


def test_a_row_that_differs_is_named_with_its_tokens() -> None:
    check = compare_rows("train", ROWS, [ROWS[0], ("x", 31, 9), ROWS[2]])
    assert (check.agrees, check.theirs) == (False, 2)
    assert (
        "row 2 is the first that differs: 30 tokens, 6 of the answer here; 31 and 9" in check.note
    )


def test_a_row_that_the_tool_dropped_is_a_disagreement() -> None:
    check = compare_rows("eval", ROWS, ROWS[:2])
    assert check.agrees is False
    assert check.note == "3 rows here, 2 in the tool"


def test_another_mask_over_the_same_tokens_gives_another_hash() -> None:
    digest, tokens, answers = describe([1, 2, 3], [-100, -100, 3])
    assert (tokens, answers) == (3, 1)
    assert digest != describe([1, 2, 3], [-100, 2, 3])[0]


def test_learning_rates_agree_step_by_step() -> None:
    ours = steps(0.0, 2e-4, 1e-4)
    assert compare_learning_rates(list(ours.values()), steps(0.0, 2e-4, 1e-4)).agrees
    off = compare_learning_rates(list(ours.values()), steps(0.0, 2e-4, 1.1e-4))
    assert (off.agrees, off.theirs) == (False, 2)
    assert "step 3" in off.note


@pytest.mark.parametrize("theirs", [steps(0.0, 2e-4), steps(0.0, 2e-4, 1e-4, 0.0)])
def test_a_run_of_another_length_is_a_disagreement(theirs: dict[int, StepLoss]) -> None:
    check = compare_learning_rates(list(steps(0.0, 2e-4, 1e-4).values()), theirs)
    assert check.agrees is False


def test_the_first_loss_tells_another_base_model_or_other_rows() -> None:
    ours = list(steps(0.0, 2e-4, loss=5.0963).values())
    assert compare_first_loss(ours, steps(0.0, loss=5.0965)).agrees
    assert compare_first_loss(ours, steps(0.0, loss=5.12)).agrees is False
    assert compare_first_loss(ours, {}).agrees is False


@pytest.mark.parametrize(
    ("theirs", "agrees"), [(2.015, True), (1.985, True), (2.03, False), (1.97, False)]
)
def test_eval_losses_agree_within_the_tolerance(theirs: float, agrees: bool) -> None:
    assert compare_eval_loss(2.0, theirs, 0.02, evaluates=True).agrees is agrees


@pytest.mark.parametrize("theirs", [None, math.nan, math.inf])
def test_a_loss_that_is_not_there_is_a_disagreement(theirs: float | None) -> None:
    check = compare_eval_loss(2.0, theirs, 0.02, evaluates=True)
    assert check.agrees is False
    assert check.theirs is None
    assert "the tool's log has no finite loss" in check.note


def test_an_export_without_evaluations_has_no_eval_loss_to_compare() -> None:
    check = compare_eval_loss(2.0, None, 0.02, evaluates=False)
    assert check.agrees is None
    assert "does not fit the card" in check.note


def test_the_adapter_is_held_to_the_record_on_rows_that_no_cutoff_changes() -> None:
    at_study = [ROWS[0], ROWS[1], ("long", 90, 40)]
    recorded = [5.0, 6.0, 80.0]
    assert compare_reproduced(recorded, [5.0, 6.0, 7.0], at_study, ROWS).agrees
    off = compare_reproduced(recorded, [5.0, 6.5, 7.0], at_study, ROWS)
    assert off.agrees is False
    assert "2 of 3 rows" in off.note


def test_where_every_row_is_cut_the_adapter_is_not_held_to_the_record() -> None:
    check = compare_reproduced([5.0], [4.0], [("long", 90, 40)], [ROWS[0]])
    assert check.agrees is None


@pytest.mark.parametrize(
    ("theirs", "agrees"), [(3.0, True), (4.0, True), (4.11, True), (4.13, False)]
)
def test_a_peak_may_be_lower_and_three_percent_higher(theirs: float, agrees: bool) -> None:
    found = {"allocated_bytes": round(theirs * GIB)}
    assert compare_peak({"allocated_bytes": 4 * GIB}, found, None, has_gpu=True).agrees is agrees


@pytest.mark.parametrize(("theirs", "agrees"), [(3.82, True), (3.93, True), (3.96, False)])
def test_a_peak_in_the_tools_evaluation_is_held_to_what_is_predicted_for_it(
    theirs: float, agrees: bool
) -> None:
    found = {"allocated_bytes": round(theirs * GIB)}
    predicted = PredictedPeak(round(3.83 * GIB), "the tool's evaluation in fp32")
    check = compare_peak({"allocated_bytes": 3.44 * GIB}, found, predicted, has_gpu=True)
    assert check.agrees is agrees
    assert "3.83 GiB predicted for the tool's evaluation" in check.note


@pytest.mark.parametrize(("measured", "has_gpu"), [(None, True), ({"allocated_bytes": GIB}, False)])
def test_a_peak_that_was_not_measured_is_not_compared(
    measured: dict[str, int] | None, has_gpu: bool
) -> None:
    check = compare_peak(measured, {"allocated_bytes": 0}, None, has_gpu=has_gpu)
    assert check.agrees is None
    assert "not compared" in check.note
