"""Predicted bytes against QLoRA runs measured on an H200 (tests/data/README.md)."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from vram_search.estimate import Estimate, estimate
from vram_search.spec import Card, Hyperparameters, MemoryPlan, load_shape
from vram_search.units import GIB

DATA = Path(__file__).parent.parent / "data"
H200 = Card(name="h200", total_bytes=140 * GIB)


def load_runs() -> list[dict[str, Any]]:
    """Runs as our training loads a model: NF4 with double quantisation, sdpa, no evaluation."""
    lines = (DATA / "vram_truth.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        run
        for run in map(json.loads, lines)
        if run["quantization"] == "nf4"
        and run["double_quantization"]
        and run["attention"] == "sdpa"
        and not run["per_device_eval_batch_size"]
    ]


RUNS = load_runs()
TRAINED = [run for run in RUNS if run["trained"]]
CHECKPOINTED = [
    run
    for run in TRAINED
    if run["gradient_checkpointing"] and not run["fused_linear_cross_entropy"]
]
FUSED = [
    run for run in TRAINED if run["gradient_checkpointing"] and run["fused_linear_cross_entropy"]
]
NOT_CHECKPOINTED = [run for run in TRAINED if not run["gradient_checkpointing"]]
CAPPED = [run for run in RUNS if run["cap_gib"] is not None]
DIED = [run for run in CAPPED if not run["trained"]]


def predict(run: dict[str, Any]) -> Estimate:
    target = run["lora_target"]
    micro_batch, accumulation = (
        run["per_device_train_batch_size"],
        run["gradient_accumulation_steps"],
    )
    return estimate(
        load_shape(DATA / "models" / run["model"]),
        Hyperparameters(
            optim=run["optimizer"],
            lora_target="all" if target == "all-linear" else target,
            lora_rank=run["lora_rank"],
            lora_alpha=16,
            cutoff_len=run["cutoff_len"],
            batch_size=micro_batch * accumulation,
            learning_rate=1e-4,
        ),
        MemoryPlan(
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
            gradient_checkpointing=run["gradient_checkpointing"],
            enable_liger_kernel=run["fused_linear_cross_entropy"],
            expandable_segments="expandable_segments:True" in str(run["env"]),
        ),
        H200,
        equal_lengths=run["lengths"] == "full",
        upcast=run["prepare_for_kbit_training"],
    )


def error(run: dict[str, Any]) -> float:
    """Predicted against measured peak, signed: 0.01 is one per cent too much."""
    return predict(run).allocated_bytes / run["max_allocated_bytes"] - 1


def told(run: dict[str, Any]) -> str:
    return f"{run['model']}, {run['note']}".replace(" ", "_")


def test_there_are_runs_of_every_kind() -> None:
    assert (len(CHECKPOINTED), len(FUSED), len(NOT_CHECKPOINTED)) == (49, 2, 7)
    assert (len(DIED), len(CAPPED)) == (7, 18)
    assert {run["model"] for run in TRAINED} == {f.name for f in (DATA / "models").iterdir()}


def test_checkpointed_peak_is_predicted_within_one_per_cent_at_the_median() -> None:
    assert statistics.median(abs(error(run)) for run in CHECKPOINTED) <= 0.01


@pytest.mark.parametrize("run", CHECKPOINTED, ids=told)
def test_checkpointed_peak_is_predicted_within_three_and_a_half_per_cent(
    run: dict[str, Any],
) -> None:
    assert abs(error(run)) <= 0.035


@pytest.mark.parametrize("run", FUSED, ids=told)
def test_fused_loss_peak_of_an_upcast_model_is_missed_by_seven_per_cent_at_most(
    run: dict[str, Any],
) -> None:
    """Both runs called prepare_model_for_kbit_training, ours does not; too low by 4.6 and 6.2 %."""
    assert run["prepare_for_kbit_training"]
    assert abs(error(run)) <= 0.07


@pytest.mark.parametrize("run", NOT_CHECKPOINTED, ids=told)
def test_peak_without_checkpointing_is_never_predicted_much_too_low(run: dict[str, Any]) -> None:
    assert error(run) >= -0.03


@pytest.mark.parametrize("run", RUNS, ids=told)
def test_trainable_parameters_are_exact(run: dict[str, Any]) -> None:
    assert predict(run).trainable_parameters == run["trainable_parameters"]


@pytest.mark.parametrize("run", DIED, ids=told)
def test_run_that_died_under_a_limit_is_predicted_to_require_more(run: dict[str, Any]) -> None:
    assert predict(run).required_bytes > run["cap_gib"] * GIB


@pytest.mark.parametrize("run", [run for run in CAPPED if run["trained"]], ids=told)
def test_run_that_finished_under_a_limit_is_predicted_to_fit_it(run: dict[str, Any]) -> None:
    assert predict(run).required_bytes <= run["cap_gib"] * GIB
