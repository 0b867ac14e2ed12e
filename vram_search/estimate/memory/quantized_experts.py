"""Bytes that are saved if the experts of a mixture are quantised too.

Axolotl's `quantize_moe_experts` quantises the experts while it loads them, and turns those of one
layer back to 16 bits whenever the layer runs (`monkeypatch/moe_quant.py`).
"""

from __future__ import annotations

from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.persistent import NESTED_BLOCK, NF4_BLOCK
from vram_search.estimate.memory.workload import Workload


def saved_expert_bytes(workload: Workload) -> int:
    """Bytes by which quantised experts are smaller than those in 16 bits; 0 if they are not
    quantised."""
    if not workload.quantized_experts or workload.quantization == "none":
        return 0
    count = workload.shape.expert_parameters
    if workload.quantization == "int8":
        return count * (BF16 - 1)
    blocks = count // NF4_BLOCK
    scales = blocks + FP32 * blocks // NESTED_BLOCK
    return BF16 * count - count // 2 - (scales if workload.double_quantization else FP32 * blocks)


def dequantized_expert_bytes(workload: Workload) -> int:
    """Bytes of the experts of the layer that runs, in 16 bits."""
    if not saved_expert_bytes(workload):
        return 0
    return BF16 * workload.shape.expert_parameters // workload.shape.num_hidden_layers
