"""Attention as CUDA's kernels have it, on fake tensors."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vram_search.trace.cuda_kernels import attention


def test_values_may_have_another_size_than_queries() -> None:
    with FakeTensorMode():
        query = torch.empty(1, 4, 64, 192, dtype=torch.bfloat16)
        value = torch.empty(1, 4, 64, 128, dtype=torch.bfloat16)
        assert attention(query, query, value, is_causal=True).shape == (1, 4, 64, 128)
