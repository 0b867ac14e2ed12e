"""CUDA's autocast lists on tensors of the CPU."""

from __future__ import annotations

import torch

from vram_search.trace.autocast import cuda_autocast_rules


def _dtypes() -> dict[str, torch.dtype]:
    narrow = torch.ones(4, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        return {
            "layer_norm": torch.nn.functional.layer_norm(narrow, (8,)).dtype,
            "softmax": narrow.softmax(-1).dtype,
            "sum": narrow.sum().dtype,
            "rsqrt": narrow.rsqrt().dtype,
            "matmul": (narrow @ narrow.T).dtype,
            "chosen": torch.softmax(narrow, -1, dtype=torch.bfloat16).dtype,
        }


def test_operations_that_cuda_computes_in_fp32_are_in_fp32() -> None:
    with cuda_autocast_rules():
        found = _dtypes()
    in_fp32 = {name for name, dtype in found.items() if dtype == torch.float32}
    assert in_fp32 == {"layer_norm", "softmax", "sum", "rsqrt"}


def test_the_rules_of_the_cpu_are_back_afterwards() -> None:
    with cuda_autocast_rules():
        pass
    assert set(_dtypes().values()) == {torch.bfloat16}
