"""The blocks that loading leaves: the base model's, and the gaps between them.

A block that was cut from a larger free one keeps a remainder of up to 1 MiB, so that the same
weights take 2 % more or less by the order of their loading. Sources: transformers
`modeling_utils.py` (`caching_allocator_warmup`) and `core_model_loading.py`
(`convert_and_load_state_dict_in_model`: tensors by name); bitsandbytes `functional.py`
(`quantize_4bit`, `int8_vectorwise_quant`); peft `utils/other.py`
(`prepare_model_for_kbit_training`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vram_search.estimate.memory.allocator import Block, CachingAllocator, Gap
from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.persistent import NESTED_BLOCK, NF4_BLOCK
from vram_search.spec.shape import MLP, ModelShape


@dataclass(frozen=True)
class Loaded:
    """torch's allocator once the base model is on the card."""

    allocated_bytes: int
    reserved_bytes: int
    gaps: tuple[Gap, ...]
    """Free pieces of segments, for requests above 1 MiB."""


@lru_cache(maxsize=256)
def load(shape: ModelShape, quantization: str, *, double: bool, upcast: bool) -> Loaded:
    """The base model's blocks; with `upcast`, what is not quantised turned into fp32 afterwards."""
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(_warmup_bytes(shape, quantization)))
    table = BF16 * shape.vocab_size * shape.hidden_size
    kept = [_kept(allocator, table)]
    head = [] if shape.tie_word_embeddings else [_kept(allocator, table)]
    norms_per_layer = (shape.norm_parameters - shape.hidden_size) // shape.num_hidden_layers
    linears = sorted(shape.linears, key=lambda linear: (linear.name not in MLP, linear.name))
    for _ in range(shape.num_hidden_layers):
        kept.append(_kept(allocator, BF16 * norms_per_layer))
        if shape.expert_parameters:
            experts = shape.expert_parameters // shape.num_hidden_layers
            kept.append(_kept(allocator, BF16 * experts))
        for linear in linears:
            if linear.bias:
                kept.append(_kept(allocator, BF16 * linear.out_features))
            weights = load_weights(
                allocator, linear.parameters, linear.out_features, quantization, double=double
            )
            if quantization == "none":
                kept.append((weights, BF16 * linear.parameters))
    kept += [_kept(allocator, BF16 * shape.hidden_size), *head]
    if upcast:
        for block, size in kept:
            allocator.allocate(FP32 // BF16 * size)
            allocator.free(block)
    return Loaded(allocator.allocated, allocator.reserved, allocator.gaps())


def _kept(allocator: CachingAllocator, size: int) -> tuple[Block, int]:
    return allocator.allocate(size), size


def _warmup_bytes(shape: ModelShape, quantization: str) -> int:
    element = {"nf4": 0.5, "int8": 1.0, "none": 2.0}[quantization]
    kept = shape.embedding_parameters + shape.norm_parameters + shape.bias_parameters
    kept += shape.expert_parameters
    return int(element * shape.linear_parameters) + BF16 * kept


def load_weights(
    allocator: CachingAllocator,
    parameters: int,
    out_features: int,
    quantization: str,
    *,
    double: bool,
) -> Block:
    """Loads the weights of one linear layer and quantises them; returns their block."""
    loaded = allocator.allocate(BF16 * parameters)
    if quantization == "none":
        return loaded
    if quantization == "int8":
        narrowed = allocator.allocate(BF16 * parameters)  # fp16, as the kernel wants it
        quantized = allocator.allocate(parameters)
        allocator.allocate(FP32 * out_features)
        _free(allocator, narrowed, loaded)
        return quantized
    blocks = -(-parameters // NF4_BLOCK)
    scales = allocator.allocate(FP32 * blocks)
    quantized = allocator.allocate(-(-parameters // 2))
    allocator.allocate(16 * FP32)
    if double:
        allocator.allocate(FP32)
        centred = allocator.allocate(FP32 * blocks)
        allocator.allocate(FP32 * -(-blocks // NESTED_BLOCK))
        allocator.allocate(blocks)
        allocator.allocate(256 * FP32)
        _free(allocator, centred, scales)
    _free(allocator, loaded)
    return quantized


def _free(allocator: CachingAllocator, *blocks: Block) -> None:
    for block in blocks:
        allocator.free(block)
