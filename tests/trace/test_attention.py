"""Attention as CUDA's kernels have it, on fake tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vram_search.trace.cuda_kernels import attention
from vram_search.trace.settings import Batch, TraceSettings
from vram_search.trace.training import traced_model

HEADS, QUERY, VALUE, LAYERS = 4, 24, 16, 2
LATENT: dict[str, Any] = {
    "model_type": "minicpm3",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": QUERY - 16,
    "v_head_dim": VALUE,
    "vocab_size": 64,
}
"""Multi-head latent attention: values are narrower than queries."""


def test_values_may_have_another_size_than_queries() -> None:
    with FakeTensorMode():
        query = torch.empty(1, 4, 64, 192, dtype=torch.bfloat16)
        value = torch.empty(1, 4, 64, 128, dtype=torch.bfloat16)
        assert attention(query, query, value, is_causal=True).shape == (1, 4, 64, 128)


@pytest.mark.parametrize(
    ("query_size", "value_size", "has_mask", "prefers_cudnn", "is_copied"),
    [
        (96, 64, False, True, True),
        (96, 64, True, True, True),
        (192, 128, False, True, True),
        (64, 64, True, True, True),
        (96, 64, False, False, False),
        (64, 64, True, False, False),
        (64, 64, False, False, True),  # flash, on any card
        (320, 64, False, True, False),  # too large for cuDNN
        (100, 64, False, True, False),  # no multiple of 8
    ],
)
def test_the_kernel_decides_whether_heads_before_tokens_are_copied_for_the_next_product(
    query_size: int, value_size: int, has_mask: bool, prefers_cudnn: bool, is_copied: bool
) -> None:
    with FakeTensorMode():
        query = torch.empty(2, 4, 64, query_size, dtype=torch.bfloat16)
        value = torch.empty(2, 4, 64, value_size, dtype=torch.bfloat16)
        mask = torch.ones(2, 1, 64, 64, dtype=torch.bool) if has_mask else None
        out = attention(query, query, value, mask, prefers_cudnn=prefers_cudnn)
        assert out.transpose(1, 2).is_contiguous() is not is_copied
        rows_first = query.transpose(1, 2).contiguous().transpose(1, 2)
        out = attention(rows_first, query, value, mask, prefers_cudnn=prefers_cudnn)
        assert out.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(("checkpointing", "layers"), [(False, LAYERS), (True, 1)])
def test_values_of_another_size_keep_one_more_tensor_a_layer_with_cudnn(
    checkpointing: bool, layers: int
) -> None:
    batch, peaks = Batch(2, 128), []
    for prefers_cudnn in (False, True):
        settings = TraceSettings(
            r".*_proj", gradient_checkpointing=checkpointing, prefers_cudnn=prefers_cudnn
        )
        with traced_model(LATENT, settings, "all") as model:
            peaks.append(model.record(batch).training.peak)
    assert peaks[1] - peaks[0] == layers * 2 * 128 * HEADS * VALUE * 2
