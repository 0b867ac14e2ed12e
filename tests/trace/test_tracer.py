"""A few traced layers at a few sizes give the bytes of all layers at any size."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from vram_search.spec.allocator_sizes import block_size
from vram_search.trace.recorder import AllocationStream, with_sums_in_place
from vram_search.trace.settings import Batch, TraceSettings
from vram_search.trace.tracer import trace
from vram_search.trace.training import record

TARGETS = ("q_proj", "c_fc", "c_proj")
STARCODER = {
    "model_type": "starcoder2",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "sliding_window": 4096,
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
}
"""LayerNorm, biases and an MLP without a gate: a family without a formula."""


def _peak(stream: AllocationStream) -> int:
    live = peak = 0
    sizes: dict[int, int] = {}
    for size, key in stream.events:
        if size >= 0:
            sizes[key] = block_size(size)
            live += sizes[key]
            peak = max(peak, live)
        else:
            live -= sizes.pop(key)
    return peak


@pytest.mark.parametrize("checkpointing", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_fit_of_three_layers_is_the_trace_of_all(checkpointing: bool) -> None:
    settings = TraceSettings(TARGETS, gradient_checkpointing=checkpointing)
    batch, rank = Batch(3, 640), 16
    found, whole = _both(STARCODER, settings, batch)
    assert found.scope.tokens == (1, 4095)
    assert len(found.fit.training.kept) == 3
    peak = found.fit.peak(*batch, rank).total
    assert peak == pytest.approx(_peak(whole), rel=0.002)


def _both(config: dict[str, Any], settings: TraceSettings, batch: Batch) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = trace(config, settings, batch, lambda done, count: None)
        (recording,) = record(config, settings, [batch], whole=True).of_sizes
    return found, recording.training


def test_two_gradients_in_fp32_are_added_in_place() -> None:
    stream = AllocationStream()
    first, second = stream.allocate(1000), stream.allocate(1000)
    total = stream.allocate(1000)
    stream.free(first)
    stream.free(second)
    stream.free(total)
    stream.sums.append((total, first, second))
    assert _peak(stream) == 3 * 1024
    assert _peak(with_sums_in_place(stream)) == 2 * 1024
