"""Predicted seconds: they follow the measured ones, the card's data sheet and the rows' lengths."""

from __future__ import annotations

import statistics
from dataclasses import astuple, replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.step_time.fit import ROWS, errors, fit, h200, held_out, read
from vram_search.estimate import workload_of
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.step_time import (
    H200_FIT,
    Speed,
    StepTimeModel,
    kind_of,
    model_flops,
    padded_tokens,
    speed_here,
    step_seconds,
)
from vram_search.resources import shipped
from vram_search.spec import Card, Hyperparameters, MemoryPlan, ModelShape, load_shape
from vram_search.spec.card import card_names, load_card

QWEN_3B = load_shape(shipped("configs", "models", "qwen2.5-3b"))
H200 = h200()
DESKTOP = StepTimeModel(Speed(47e12, 448e9))
LENGTHS = st.lists(st.integers(1, 2000), min_size=1, max_size=200)


def card(slug: str) -> Card:
    return Card.model_validate(load_card(slug))


def workload(**changes: Any) -> Workload:
    plain = Workload(
        shape=QWEN_3B,
        lora_modules=tuple(QWEN_3B.target_modules("all")),
        lora_rank=16,
        optimizer="adamw_8bit",
        per_device_train_batch_size=1,
        cutoff_len=1024,
        gradient_accumulation_steps=8,
    )
    return replace(plain, **changes)


def test_stored_coefficients_are_those_that_the_measured_rows_give() -> None:
    assert astuple(fit(read(ROWS), H200)) == pytest.approx(astuple(H200_FIT), rel=0.02)


def test_half_of_the_measured_steps_are_predicted_within_a_tenth() -> None:
    assert statistics.median(errors(read(ROWS), H200, H200_FIT)) < 0.1


def test_trials_of_a_slower_device_correct_what_another_device_taught() -> None:
    before, after = held_out(read(ROWS), H200, slower=1.5)
    assert statistics.median(before) > 0.3
    assert statistics.median(after) < 0.12


def test_step_of_a_3b_model_takes_as_long_at_batch_1_and_2_where_the_host_is_the_slower() -> None:
    one = step_seconds(workload(gradient_accumulation_steps=1), H200)
    two = workload(gradient_accumulation_steps=1, per_device_train_batch_size=2)
    assert step_seconds(two, H200) == one
    assert step_seconds(two, DESKTOP) > 1.5 * step_seconds(
        workload(gradient_accumulation_steps=1), DESKTOP
    )


@pytest.mark.parametrize("step_time", [H200, DESKTOP], ids=["H200", "desktop"])
def test_recomputing_activations_costs_a_third_to_a_half_more(step_time: StepTimeModel) -> None:
    ratio = step_seconds(workload(), step_time) / step_seconds(
        workload(gradient_checkpointing=False), step_time
    )
    assert 1.3 < ratio < 1.55


def test_fused_loss_saves_time_only_where_the_model_is_one_that_liger_fuses() -> None:
    fused = workload(fused_linear_cross_entropy=True)
    assert step_seconds(fused, DESKTOP) < step_seconds(workload(), DESKTOP)
    granite = load_shape(shipped("configs", "models", "granite-3.3-2b"))
    assert step_seconds(replace(fused, shape=granite), DESKTOP) == step_seconds(
        workload(shape=granite), DESKTOP
    )


@given(
    shape=st.from_type(ModelShape),
    point=st.from_type(Hyperparameters),
    plan=st.from_type(MemoryPlan),
    tflops=st.floats(5, 2000),
    bandwidth=st.floats(100, 8000),
)
def test_no_faster_card_and_no_shorter_row_ever_takes_longer(
    shape: ModelShape, point: Hyperparameters, plan: MemoryPlan, tflops: float, bandwidth: float
) -> None:
    drawn = workload_of(shape, point, plan, 1024)
    seconds = step_seconds(drawn, StepTimeModel(Speed(tflops * 1e12, bandwidth * 1e9)))
    assert seconds > 0
    for flops, memory in product((tflops, 2 * tflops), (bandwidth, 2 * bandwidth)):
        assert step_seconds(drawn, StepTimeModel(Speed(flops * 1e12, memory * 1e9))) <= seconds
    shorter = step_seconds(
        drawn, StepTimeModel(Speed(tflops * 1e12, bandwidth * 1e9)), point.cutoff_len / 2
    )
    assert shorter <= seconds


def test_pace_multiplies_by_its_factor_and_its_kinds() -> None:
    kind = kind_of(workload())
    assert kind == (True, False)
    step_time = StepTimeModel(H200.speed, factor=2.0, kind_factors={kind: 1.5})
    assert step_seconds(workload(), step_time) == 3 * step_seconds(workload(), H200)
    other = workload(gradient_checkpointing=False)
    assert step_seconds(other, step_time) == 2 * step_seconds(other, H200)


def test_rows_of_one_length_need_no_padding() -> None:
    assert {padded_tokens([300] * 5, 512, 8, size) for size in (1, 2, 4, 8)} == {300}


def test_whole_batch_is_padded_to_its_longest_row_and_single_rows_not_at_all() -> None:
    lengths = range(1000, 0, -1)
    assert padded_tokens(lengths, 1024, 8, 8) == pytest.approx(1000 * 8 / 9, rel=0.01)
    assert padded_tokens(lengths, 1024, 8, 1) == pytest.approx(500, rel=0.01)
    assert padded_tokens(lengths, 512, 8, 8) == 512


@given(lengths=LENGTHS, micro_batch=st.sampled_from([1, 2, 4, 8]))
def test_larger_micro_batches_pad_no_less(lengths: list[int], micro_batch: int) -> None:
    rows = sorted(lengths, reverse=True)
    padded, wider = (
        padded_tokens(rows, rows[0], 16, size) for size in (micro_batch, 2 * micro_batch)
    )
    assert rows[-1] <= padded <= wider <= rows[0]


def test_flops_of_a_token_are_four_per_frozen_weight_and_six_per_trained_one() -> None:
    small = workload(cutoff_len=16)
    weights = QWEN_3B.linear_parameters + QWEN_3B.vocab_size * QWEN_3B.hidden_size
    plain = 4 * weights + 6 * small.trainable_parameters
    assert model_flops(small, 16) / 16 == pytest.approx(plain, rel=1e-3)
    assert model_flops(small, 16) == model_flops(replace(small, gradient_checkpointing=False), 16)


@pytest.mark.parametrize(
    ("device", "slug"),
    [
        ("NVIDIA H200", "h200-141gb"),
        ("NVIDIA GeForce RTX 4060 Ti", "rtx-4060-ti-16gb"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("Tesla T4", "t4-16gb"),
    ],
)
def test_device_here_decides_the_speed(device: str, slug: str) -> None:
    assert speed_here(device, card("rtx-3090-24gb")) == Speed.of(card(slug))


def test_unknown_device_runs_at_the_speed_of_the_studys_card() -> None:
    study_card = Card(name="mine", total_bytes=1, bf16_tflops=10, bandwidth_gb_per_s=100)
    assert speed_here("Some GPU", study_card) == Speed(10e12, 100e9)
    assert speed_here("mine", study_card) == Speed(10e12, 100e9)


def test_every_shipped_card_has_a_plausible_data_sheet() -> None:
    for slug in card_names():
        read_card = card(slug)
        assert 150 <= (read_card.bandwidth_gb_per_s or 500) <= 8000  # not known of some laptops
        assert 10 <= (read_card.bf16_tflops or 50) <= 2500


def test_card_without_a_data_sheet_counts_as_a_middling_one() -> None:
    bare = Speed.of(Card(name="bare", total_bytes=1))
    slow, fast = Speed.of(card("rtx-4060-8gb")), Speed.of(card("rtx-4090-24gb"))
    assert slow.flops_per_second < bare.flops_per_second < fast.flops_per_second
    assert slow.bytes_per_second < bare.bytes_per_second < fast.bytes_per_second
