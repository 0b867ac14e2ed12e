"""Predicted bytes of an adapter that starts from the base's own weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vram_search.estimate.memory.initial_adapter import initial_adapter_bytes
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.workload import Workload
from vram_search.resources import shipped
from vram_search.spec.shape import load_shape

SHAPE = load_shape(shipped("configs", "models", "qwen2.5-7b"))
PLAIN = Workload(
    shape=SHAPE,
    lora_modules=("q_proj", "down_proj"),
    lora_rank=16,
    optimizer="adamw_8bit",
    per_device_train_batch_size=1,
    cutoff_len=64,
)


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_start_of_the_largest_layer_is_the_peak_of_a_small_training(method: str) -> None:
    started = replace(PLAIN, init_lora_weights=method)
    assert started.largest_target == (3584, 18944)
    assert initial_adapter_bytes(started) >= 3 * 4 * 3584 * 18944
    assert predict(started).moment == "adapter start"
    assert predict(started).allocated_bytes > predict(PLAIN).allocated_bytes


def test_start_within_the_peak_of_a_large_training_costs_nothing() -> None:
    large = replace(PLAIN, per_device_train_batch_size=8, cutoff_len=1024)
    started = replace(large, init_lora_weights="olora")
    assert predict(started).allocated_bytes == predict(large).allocated_bytes
    assert initial_adapter_bytes(large) == 0
