"""A trace of a mixture of experts: which bytes the routing decides, and what a mask keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vram_search.trace.recorder import Recorder
from vram_search.trace.settings import Batch, TraceSettings
from vram_search.trace.training import traced_model

SETTINGS = TraceSettings(("q_proj",), gradient_checkpointing=False, quantization="none")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}
OLMOE = {"model_type": "olmoe", **SIZES}


def peaks(config: dict[str, Any], settings: TraceSettings = SETTINGS) -> tuple[bool, list[int]]:
    """Returns whether bytes depend on the routing, and the peaks of the worst and a balanced."""
    with traced_model(config, settings, "all") as model:
        found = []
        for worst in (True, False):
            model.set_routing(worst=worst)
            found.append(model.record(Batch(1, 128)).training.peak)
        return model.depends_on_routing, found


def test_a_grouped_product_of_all_experts_needs_the_same_for_any_routing() -> None:
    depends, found = peaks(OLMOE)
    assert not depends and found[0] == found[1]


def test_a_loop_over_experts_needs_other_bytes_for_each_routing() -> None:
    depends, found = peaks({**OLMOE, "experts_implementation": "eager"})
    assert depends and found[0] != found[1]


def test_tokens_that_are_split_by_expert_are_all_given_to_one() -> None:
    jetmoe = {
        **{key: value for key, value in SIZES.items() if key != "num_experts"},
        "model_type": "jetmoe",
        "num_local_experts": 8,
        "kv_channels": 16,
        "num_key_value_heads": 1,
    }
    settings = TraceSettings(("kv_proj",), gradient_checkpointing=False, quantization="none")
    depends, _ = peaks(jetmoe, settings)
    assert depends


@pytest.mark.parametrize("worst", [True, False])
def test_every_token_has_its_experts(worst: bool) -> None:
    with FakeTensorMode() as mode, Recorder(mode) as recorder:
        recorder.routing.worst = worst
        torch.empty(10, 4).topk(3)
        counts = torch.empty(4, dtype=torch.int64).tolist()
    assert counts == ([10, 10, 10, 0] if worst else [8, 8, 7, 7])


def test_a_mask_keeps_everything() -> None:
    with FakeTensorMode() as mode, Recorder(mode):
        rows = torch.empty(2, 6, 5)
        assert rows[:, torch.empty(6, dtype=torch.bool)].shape == (2, 6, 5)
