"""Bytes of an adapter's start from the base's own weights (PiSSA, OLoRA)."""

from __future__ import annotations

from vram_search.estimate.memory.elements import FP32
from vram_search.estimate.memory.workload import Workload


def initial_adapter_bytes(workload: Workload) -> int:
    """Temporary bytes while the largest layer is decomposed; 0 for peft's default.

    The layers follow one another (`train/initial_adapter.py`). OLoRA holds the weights, the
    product of the matrices, Q and R (peft `tuners/lora/layer.py`, `olora_init`); PiSSA the weights,
    the product and the remainder (`pissa_init`); all of them in fp32.
    """
    if workload.init_lora_weights == "default":
        return 0
    outputs, inputs = workload.largest_target
    weights = outputs * inputs
    if workload.init_lora_weights == "pissa":
        return FP32 * 3 * weights
    return FP32 * (2 * weights + min(outputs, inputs) * (outputs + inputs))
