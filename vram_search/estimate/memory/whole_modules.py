"""Bytes of weights that are trained whole: beside an adapter (`modules_to_save`), or without one in
full and freeze tuning."""

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
    return 2 * count * element + autocast + _state_bytes(workload, count, element)


def trained_base_bytes(workload: Workload) -> int:
    """Bytes that training the base's own weights adds to the base.

    Gradients have the weights' dtype. Weights in fp32 are cast to 16 bits in each forward pass, and
    torch's autocast keeps these copies until it ends (torch `autocast_mode.cpp`, `cached_cast`);
    the embeddings are not cast, and the head's copy belongs to the loss.
    """
    count, element = workload.trained_base_parameters, workload.trained_base_element_bytes
    if not count:
        return 0
    states = _state_bytes(workload, count, element)
    if element == BF16:
        return BF16 * count + states
    is_whole = workload.prepare_for_kbit_training
    cast = count - workload.shape.embedding_parameters if is_whole else count
    widened = 0 if is_whole else (FP32 - BF16) * count
    return FP32 * count + BF16 * cast + widened + states


def trained_base_step_bytes(workload: Workload) -> int:
    """Temporary bytes of an optimizer's step over the base's own weights."""
    copies = OPTIMIZERS[workload.optimizer].step_copies
    return copies * workload.trained_base_parameters * workload.trained_base_element_bytes


def _state_bytes(workload: Workload, count: int, element: int) -> int:
    optimizer = OPTIMIZERS[workload.optimizer]
    if optimizer.paged:
        return 0
    if optimizer.eight_bit:
        size = count + FP32 * count // STATE_BLOCK
    else:
        in_torch = optimizer.library == "torch"
        size = count * (element if in_torch else FP32)
    return sum(optimizer.states) * size
