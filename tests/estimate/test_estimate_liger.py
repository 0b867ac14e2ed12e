"""Trials with Liger's kernels that an H200 measured: `python -m bench.gpu_trials`, 2026-11-24."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.factories import make_point
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.planner import Longest, workload_of
from vram_search.resources import shipped
from vram_search.spec import MemoryPlan, load_shape
from vram_search.units import GIB

SHAPE = load_shape(shipped("configs", "models", "qwen2.5-3b"))
EVAL_CUTOFF_LEN = 2048


@pytest.mark.parametrize(
    ("target", "rank", "optim", "batch", "cutoff", "checkpointing", "padded", "measured"),
    [
        ("all", 32, "lion_8bit", 4, 2048, True, True, 4_861_853_184),
        ("qkvo", 32, "lion_8bit", 16, 384, True, False, 3_805_368_832),
        ("qkvo_gu", 4, "adamw_8bit", 2, 2048, False, True, 14_304_780_288),
        ("qkvo_gu", 16, "adamw_torch_fused", 2, 384, False, False, 4_437_535_744),
        ("qv", 4, "lion_8bit", 4, 512, False, True, 7_682_925_568),
        ("all", 4, "adamw_torch_fused", 4, 2048, True, True, 4_645_204_480),
        ("qkvo", 8, "adamw_8bit", 16, 512, True, True, 4_359_285_248),
        ("all", 4, "adamw_8bit", 2, 512, False, True, 5_941_161_472),
        ("all", 16, "adamw_8bit", 2, 384, False, False, 4_971_224_576),
        ("qkvo", 32, "lion_8bit", 4, 2048, True, True, 4_450_780_672),
    ],
)
def test_peak_with_fused_kernels_is_predicted_within_a_thousandth(
    target: str,
    rank: int,
    optim: str,
    batch: int,
    cutoff: int,
    checkpointing: bool,
    padded: bool,
    measured: int,
) -> None:
    hyperparameters = make_point(
        optim=optim, lora_target=target, lora_rank=rank, cutoff_len=cutoff, batch_size=batch
    )
    plan = MemoryPlan(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        gradient_checkpointing=checkpointing,
        enable_liger_kernel=True,
        per_device_eval_batch_size=1,
        expandable_segments=True,
    )
    workload = workload_of(SHAPE, hyperparameters, plan, EVAL_CUTOFF_LEN)
    estimate = predict(replace(workload, equal_lengths=not padded), Hardware())
    assert estimate.allocated_bytes == pytest.approx(measured, rel=0.001)


@pytest.mark.parametrize(
    ("target", "rank", "batch", "accumulation", "checkpointing", "measured_gib"),
    [
        ("qkvo_gu", 32, 8, 1, True, 4.34),
        ("all", 16, 16, 1, True, 6.03),
        ("all", 32, 16, 1, True, 6.37),
        ("qkvo_gu", 64, 8, 1, True, 4.85),
        ("qkvo_gu", 8, 4, 1, False, 11.23),
        ("qv", 16, 8, 1, True, 3.74),
        ("qkvo_gu", 64, 16, 2, True, 7.04),
        ("all", 64, 16, 2, True, 7.49),
    ],
)
def test_peak_of_rows_shorter_than_the_cutoff_is_predicted_as_the_card_measured_it(
    target: str,
    rank: int,
    batch: int,
    accumulation: int,
    checkpointing: bool,
    measured_gib: float,
) -> None:
    """Probes of a search with cutoff_len 1024 on rows of up to 850 tokens (docs/experiments.md,
    2026-11-27, an H200)."""
    hyperparameters = make_point(
        optim="adamw_torch_fused",
        lora_target=target,
        lora_rank=rank,
        cutoff_len=1024,
        batch_size=batch * accumulation,
    )
    plan = MemoryPlan(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=checkpointing,
        enable_liger_kernel=True,
        expandable_segments=True,
    )
    rows = Longest(train=850, eval=850)
    estimate = predict(workload_of(SHAPE, hyperparameters, plan, 1024, rows), Hardware())
    assert estimate.allocated_bytes / GIB == pytest.approx(measured_gib, abs=0.006)
