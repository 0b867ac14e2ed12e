"""Bytes that stay for the whole training: base weights, upcasts, adapter, optimizer states."""

from __future__ import annotations

from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.allocator_sizes import (
    MIN_LARGE_REQUEST,
    ROUND_LARGE,
    SMALL_REQUEST,
    block_size,
)
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.shape import Linear, ModelShape
from vram_search.units import KIB

NF4_BLOCK = 64
"""Weights that share one absmax (bitsandbytes `Params4bit`, default blocksize)."""
NESTED_BLOCK = 256
"""absmax values that share one fp32 scale with double quantisation
(bitsandbytes `functional.quantize_4bit`)."""
STATE_BLOCK = 256
"""Elements that share one absmax of an 8-bit state (bitsandbytes `Optimizer2State.init_state`)."""
MIN_8BIT_SIZE = 4096
"""Smaller tensors keep fp32 states (bitsandbytes `optim/optimizer.py`, `min_8bit_size`)."""
MIN_PAGED_SIZE = 100_000
"""Smaller states are not paged (bitsandbytes `Optimizer8bit.get_state_buffer`)."""


def fresh_block(size: int, *, expandable: bool = False) -> int:
    """Bytes of a block in a segment of its own, where a small remainder stays with the block."""
    block = block_size(size)
    if size < MIN_LARGE_REQUEST or expandable:
        return block
    segment = -(-size // ROUND_LARGE) * ROUND_LARGE
    return segment if segment - block <= SMALL_REQUEST else block


def linear_bytes(linear: Linear, quantization: str, *, double: bool) -> int:
    """Weights of one linear layer with its quantisation statistics; biases excluded."""
    weights = linear.parameters
    if quantization == "none":
        return block_size(weights * BF16)
    if quantization == "int8":
        return block_size(weights) + block_size(linear.out_features * FP32)
    blocks = -(-weights // NF4_BLOCK)
    packed = block_size(weights // 2) + block_size(16 * FP32)
    if not double:
        return packed + block_size(blocks * FP32)
    nested = (
        block_size(-(-blocks // NESTED_BLOCK) * FP32) + block_size(256 * FP32) + block_size(FP32)
    )
    return packed + block_size(blocks) + nested


def base_bytes(
    shape: ModelShape, quantization: str = "nf4", *, double: bool = True, expandable: bool = False
) -> int:
    """Bytes of the base model on the card.

    The embedding, the head, the norms and the biases are not quantised (transformers'
    `get_keys_to_not_convert`).
    """
    layer = sum(linear_bytes(linear, quantization, double=double) for linear in shape.linears)
    total = shape.num_hidden_layers * layer
    return total + _kept_bytes(shape, BF16, expandable=expandable)


def upcast_bytes(workload: Workload) -> int:
    """Bytes that fp32 in place of 16 bits adds: everything that is not quantised."""
    if not workload.prepare_for_kbit_training:
        return 0
    shape, expandable = workload.shape, workload.expandable_segments
    added = _kept_bytes(shape, FP32, expandable=expandable) - _kept_bytes(
        shape, BF16, expandable=expandable
    )
    if workload.quantization == "none":
        added += (FP32 - BF16) * shape.linear_parameters
    return added


def _kept_bytes(shape: ModelShape, element: int, *, expandable: bool) -> int:
    tables = 1 if shape.tie_word_embeddings else 2
    table = fresh_block(shape.vocab_size * shape.hidden_size * element, expandable=expandable)
    biases = sum(
        block_size(linear.out_features * element) for linear in shape.linears if linear.bias
    )
    return (
        tables * table
        + shape.num_hidden_layers * biases
        + block_size((shape.norm_parameters + shape.expert_parameters) * element)
    )


def _lora_tensors(workload: Workload) -> list[int]:
    """Elements of A and B of one layer."""
    sizes = []
    for linear in workload.shape.linears:
        if linear.name in workload.lora_modules:
            sizes += [
                workload.lora_rank * linear.in_features,
                workload.lora_rank * linear.out_features,
            ]
    return sizes


def adapter_blocks(workload: Workload, element: int = FP32) -> list[int]:
    """A and B of every target of one layer; fp32, or autocast's 16-bit copies."""
    return [block_size(size * element) for size in _lora_tensors(workload)]


def adapter_bytes(workload: Workload, element: int = FP32) -> int:
    """The same for all layers."""
    return workload.shape.num_hidden_layers * sum(adapter_blocks(workload, element))


def optimizer_blocks(workload: Workload) -> list[int]:
    """States of one layer's tensors on the card (bitsandbytes `Optimizer2State.init_state`, torch
    `optim/adamw.py`); paged states live in managed memory."""
    optimizer = OPTIMIZERS[workload.optimizer]
    blocks = []
    for size in _lora_tensors(workload):
        paged = optimizer.paged and size >= MIN_PAGED_SIZE
        if not optimizer.eight_bit or size < MIN_8BIT_SIZE:
            state = block_size(size * FP32)
        else:
            state = block_size(size)
            blocks += optimizer.states_per_parameter * [block_size(-(-size // STATE_BLOCK) * FP32)]
        blocks += [] if paged else optimizer.states_per_parameter * [state]
    return blocks


def optimizer_bytes(workload: Workload) -> int:
    """States of all layers, and the tables of 8-bit codes."""
    optimizer = OPTIMIZERS[workload.optimizer]
    tables = optimizer.states_per_parameter * KIB if optimizer.eight_bit else 0
    return workload.shape.num_hidden_layers * sum(optimizer_blocks(workload)) + tables
