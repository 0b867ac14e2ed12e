"""Bytes of embeddings and heads that are trained whole, beside the adapter (`modules_to_save`)."""

from __future__ import annotations

from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.persistent import STATE_BLOCK
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.optimizers import OPTIMIZERS


def whole_module_bytes(workload: Workload) -> int:
    """Bytes of the trained copies, their gradients and their optimizer states.

    peft copies such a module and keeps the original (peft `utils/other.py`,
    `ModulesToSaveWrapper`). Gradients have the copy's dtype, and so have torch's states; those of
    bitsandbytes are in fp32 or 8 bits. A head in fp32 is cast to 16 bits for each forward pass.
    """
    count, element = workload.whole_parameters, workload.whole_element_bytes
    autocast = workload.whole_head_parameters * BF16 if element == FP32 else 0
    return 2 * count * element + autocast + _state_bytes(workload)


def _state_bytes(workload: Workload) -> int:
    optimizer, count = OPTIMIZERS[workload.optimizer], workload.whole_parameters
    if optimizer.paged:
        return 0
    if optimizer.eight_bit:
        size = count + FP32 * count // STATE_BLOCK
    else:
        in_torch = optimizer.library == "torch"
        size = count * (workload.whole_element_bytes if in_torch else FP32)
    return sum(optimizer.states) * size
