"""The batch of generated answers stays within a training's own peak."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vram_search.estimate.memory.generation import STAYS, generation_batch, generation_bytes
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.workload import Workload
from vram_search.resources import shipped
from vram_search.spec.plan import EVAL_LOSS_TOKENS
from vram_search.spec.shape import load_shape

SHIPPED = ["qwen2.5-0.5b", "qwen2.5-7b", "llama-3.1-8b", "smollm2-135m", "mistral-7b-v0.3"]


def smallest_training(name: str, tokens: int) -> Workload:
    return Workload(
        shape=load_shape(shipped("configs", "models", name)),
        lora_modules=("q_proj", "v_proj"),
        lora_rank=4,
        optimizer="adamw_8bit",
        per_device_train_batch_size=1,
        cutoff_len=tokens,
        fused_linear_cross_entropy=True,
        per_device_eval_batch_size=1,
        eval_cutoff_len=tokens,
        eval_loss_tokens=EVAL_LOSS_TOKENS,
        prediction_loss_only=False,
        equal_lengths=False,
    )


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("tokens", [128, 1024, 4096])
def test_one_row_is_within_the_peak_of_the_smallest_training(name: str, tokens: int) -> None:
    estimate = predict(smallest_training(name, tokens))
    room = sum(v for part, v in estimate.allocated_parts.items() if part not in STAYS)
    assert generation_bytes(estimate.workload.shape, 1, tokens) <= room


def test_larger_trainings_leave_room_for_more_rows_and_no_batch_exceeds_them() -> None:
    small = smallest_training("qwen2.5-7b", 1024)
    batches = []
    for rows in (1, 4, 16):
        workload = replace(small, per_device_train_batch_size=rows, gradient_checkpointing=False)
        estimate = predict(workload)
        batches.append(generation_batch(estimate, 1024))
        room = sum(v for part, v in estimate.allocated_parts.items() if part not in STAYS)
        assert generation_bytes(workload.shape, batches[-1], 1024) <= room
    assert batches == sorted(batches) and batches[-1] > batches[0]
