"""Bytes by which weights that are quantised already differ from what they are counted as."""

from __future__ import annotations

from functools import lru_cache

from vram_search.estimate.memory.elements import BF16
from vram_search.estimate.memory.persistent import weight_bytes
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.checkpoint import Checkpoint
from vram_search.spec.model_tree import LinearGroup


def stored_checkpoint_bytes(workload: Workload) -> int:
    """Bytes that a checkpoint's own format takes beyond the form that `quantization` names; below
    0 if it takes fewer. 0 where weights are in 16 bits or in bitsandbytes' own form of 4 bits."""
    shape, checkpoint = workload.shape, workload.shape.checkpoint
    if checkpoint is None or workload.quantization == "none":
        return 0
    total = _linear_bytes(
        checkpoint, shape.linear_groups, workload.quantization, workload.double_quantization
    )
    if checkpoint.has_own_size and not workload.quantized_experts:
        experts = shape.expert_parameters
        total += checkpoint.weight_bytes(experts, 1) - BF16 * experts
    return round(total)


@lru_cache(maxsize=64)
def _linear_bytes(
    checkpoint: Checkpoint, groups: tuple[LinearGroup, ...], quantization: str, double: bool
) -> float:
    """The part of the linear layers."""
    total = 0.0
    for group in groups:
        if group.storage == "nf4":
            counted = weight_bytes(
                group.parameters, group.out_features, quantization, double=double
            )
            own = float(counted)
            if checkpoint.is_int8:
                own = weight_bytes(group.parameters, group.out_features, "int8", double=double)
            elif checkpoint.has_own_size:
                own = checkpoint.weight_bytes(group.in_features, group.out_features)
            kept = checkpoint.kept_layers(group)
            total += kept * BF16 * group.parameters + (group.count - kept) * own
            total -= group.count * counted
    return total
