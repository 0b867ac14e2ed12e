"""Bytes that stay for the whole training: base weights, upcasts, adapter, optimizer states."""

from __future__ import annotations

from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.allocator_sizes import (
    MIN_BLOCK,
    MIN_LARGE_REQUEST,
    ROUND_LARGE,
    SMALL_REQUEST,
    block_size,
)
from vram_search.spec.model_tree import ModelTree
from vram_search.spec.optimizers import OPTIMIZERS, Optimizer
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


def weight_bytes(parameters: int, out_features: int, quantization: str, *, double: bool) -> int:
    """Weights of one linear layer with its quantisation statistics; biases excluded."""
    if quantization == "none":
        return block_size(parameters * BF16)
    if quantization == "int8":
        return block_size(parameters) + block_size(out_features * FP32)
    blocks = -(-parameters // NF4_BLOCK)
    packed = block_size(-(-parameters // 2)) + block_size(16 * FP32)
    if not double:
        return packed + block_size(blocks * FP32)
    nested = (
        block_size(-(-blocks // NESTED_BLOCK) * FP32) + block_size(256 * FP32) + block_size(FP32)
    )
    return packed + block_size(blocks) + nested


def linear_bytes(linear: Linear, quantization: str, *, double: bool) -> int:
    """The same of a linear layer of a modelled family."""
    return weight_bytes(linear.parameters, linear.out_features, quantization, double=double)


def base_bytes(
    shape: ModelShape, quantization: str = "nf4", *, double: bool = True, expandable: bool = False
) -> int:
    """Bytes of the base model on the card.

    The embedding, the head, the norms and the biases are not quantised (transformers'
    `get_keys_to_not_convert`).
    """
    if shape.tree is not None:
        return tree_bytes(shape.tree, quantization, double=double)
    layer = sum(linear_bytes(linear, quantization, double=double) for linear in shape.linears)
    total = shape.num_hidden_layers * layer
    return total + _kept_bytes(shape, BF16, expandable=expandable)


def tree_bytes(tree: ModelTree, quantization: str, *, double: bool) -> int:
    """Bytes of a model by its module tree, without the gaps that loading leaves."""
    total = 0
    for group in tree.linears:
        element = FP32 if group.storage == "fp32" else BF16
        if group.storage == "nf4":
            weights = weight_bytes(
                group.parameters, group.out_features, quantization, double=double
            )
        else:
            weights = block_size(group.parameters * element)
        bias = block_size(group.out_features * element) if group.has_bias else 0
        total += group.count * (weights + bias)
    return total + sum(g.count * block_size(g.elements * g.element_bytes) for g in tree.tensors)


def upcast_bytes(workload: Workload) -> int:
    """Bytes that fp32 in place of 16 bits adds: everything that is not quantised."""
    if not workload.prepare_for_kbit_training:
        return 0
    shape, expandable = workload.shape, workload.expandable_segments
    if shape.tree is not None:
        return (FP32 - BF16) * sixteen_bit_elements(shape.tree, workload.quantization)
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


def sixteen_bit_elements(tree: ModelTree, quantization: str) -> int:
    """Elements that `prepare_model_for_kbit_training` turns into fp32."""
    elements = sum(
        g.count * g.elements for g in tree.tensors if g.element_bytes == BF16 and not g.is_buffer
    )
    for group in tree.linears:
        if group.storage == "16-bit" or (group.storage == "nf4" and quantization == "none"):
            elements += group.count * group.parameters
        elements += group.count * group.out_features * group.has_bias
    return elements


def _lora_features(workload: Workload) -> list[tuple[int, int]]:
    """Pairs of (how many, features) for A and B of every target; each has rank x features."""
    if workload.shape.tree is not None:
        sizes = [(g.count, g.in_features, g.out_features) for g in workload.lora_groups]
    else:
        sizes = [
            (workload.shape.num_hidden_layers, linear.in_features, linear.out_features)
            for linear in workload.shape.linears
            if linear.name in workload.lora_modules
        ]
    linears = [(n, features) for n, *both in sizes for features in both]
    return [*linears, *workload.expert_features]


def _lora_tensors(workload: Workload) -> list[tuple[int, int]]:
    """Pairs of (how many, elements) for A and B of every target, and DoRA's magnitudes."""
    matrices = [(n, workload.lora_rank * features) for n, features in _lora_features(workload)]
    return [*matrices, *workload.magnitudes]


def _of_one_layer(workload: Workload, counted: list[tuple[int, int]]) -> list[int]:
    """Sizes within an average layer: of a hybrid, a layer kind counts where most layers have it."""
    layers = workload.shape.num_hidden_layers
    return [size for count, size in counted for _ in range(max(1, round(count / layers)))]


def adapter_blocks(workload: Workload) -> list[int]:
    """A and B of every target of one layer."""
    return _blocks(workload, workload.adapter_element_bytes)


def adapter_copy_blocks(workload: Workload) -> list[int]:
    """Autocast's 16-bit copies of them; none of an adapter in 16 bits."""
    return _blocks(workload, BF16) if _is_copied(workload) else []


def _blocks(workload: Workload, element: int) -> list[int]:
    tensors = _of_one_layer(workload, _lora_tensors(workload))
    return [block_size(size * element) for size in tensors]


def adapter_bytes(workload: Workload) -> int:
    """A and B of every target of all layers; their gradients take the same."""
    return _adapter_bytes(workload, workload.adapter_element_bytes)


def adapter_copy_bytes(workload: Workload) -> int:
    """Autocast's 16-bit copies of them; none of an adapter in 16 bits."""
    return _adapter_bytes(workload, BF16) if _is_copied(workload) else 0


def _is_copied(workload: Workload) -> bool:
    return workload.has_autocast and workload.adapter_element_bytes == FP32


def _adapter_bytes(workload: Workload, element: int) -> int:
    return sum(count * block_size(size * element) for count, size in _lora_tensors(workload))


def optimizer_blocks(workload: Workload) -> list[int]:
    """States of one layer's tensors on the card."""
    optimizer = OPTIMIZERS[workload.optimizer]
    tensors = _of_one_layer(workload, _lora_features(workload))
    return [
        block
        for features in tensors
        for block in state_blocks(optimizer, workload.lora_rank, features, _state_element(workload))
    ]


def _state_element(workload: Workload) -> int:
    """Bytes of an element of whole states: torch's AdamW follows the adapter's dtype."""
    follows = workload.optimizer.startswith("adamw_torch")
    return workload.adapter_element_bytes if follows else FP32


def state_blocks(optimizer: Optimizer, rank: int, features: int, element: int = FP32) -> list[int]:
    """States of one matrix of the adapter (bitsandbytes `Optimizer2State.init_state`, torch
    `optim/adamw.py`, transformers `Adafactor`); paged states live in managed memory."""
    size = rank * features
    if optimizer.factored:
        return [block_size(rank * FP32), block_size(features * FP32), MIN_BLOCK]
    in_eight_bits = optimizer.eight_bit and size >= MIN_8BIT_SIZE
    blocks = []
    for elements in optimizer.states:
        if in_eight_bits:
            blocks.append(block_size(elements * -(-size // STATE_BLOCK) * FP32))
        if not (optimizer.paged and size >= MIN_PAGED_SIZE):
            blocks.append(block_size(elements * size * (1 if in_eight_bits else element)))
    return blocks


def optimizer_bytes(workload: Workload) -> int:
    """States of all layers, and the tables of 8-bit codes."""
    optimizer = OPTIMIZERS[workload.optimizer]
    tables = len(optimizer.states) * KIB if optimizer.eight_bit else 0
    element = _state_element(workload)
    states = (
        count * sum(state_blocks(optimizer, workload.lora_rank, features, element))
        for count, features in _lora_features(workload)
    )
    return sum(states) + tables


def step_bytes(workload: Workload) -> int:
    """Temporary bytes of an optimizer step, beside the states and the gradients."""
    optimizer = OPTIMIZERS[workload.optimizer]
    largest = max((size for _, size in _lora_tensors(workload)), default=0)
    one_by_one = optimizer.step_tensors * block_size(largest * FP32)
    return optimizer.step_copies * adapter_bytes(workload) + one_by_one
