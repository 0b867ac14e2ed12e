"""What loading leaves behind: the base model's blocks, in the order in which they are made.

A block that was cut from a larger free one keeps a remainder of up to 1 MiB, so that the same
weights take 2 % more or less by the order of their loading. Sources: transformers
`modeling_utils.py` (`caching_allocator_warmup`) and `core_model_loading.py`
(`convert_and_load_state_dict_in_model`: tensors by name); bitsandbytes `functional.py`
(`quantize_4bit`, `int8_vectorwise_quant`).
"""

from __future__ import annotations

from functools import lru_cache

from vram_search.estimate.allocator import Block, CachingAllocator
from vram_search.estimate.static import BF16, FP32, NESTED_BLOCK, NF4_BLOCK
from vram_search.spec.shape import Linear, ModelShape

MLP = frozenset({"down_proj", "gate_proj", "up_proj", "gate_up_proj"})


@lru_cache(maxsize=256)
def loaded_bytes(shape: ModelShape, quantization: str, *, double: bool) -> int:
    """torch's `memory_allocated` once the base model is on the card."""
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(_warmup_bytes(shape, quantization)))
    table = BF16 * shape.vocab_size * shape.hidden_size
    for _ in range(1 if shape.tie_word_embeddings else 2):
        allocator.allocate(table)
    norms_per_layer = (shape.norm_parameters - shape.hidden_size) // shape.num_hidden_layers
    linears = sorted(shape.linears, key=lambda linear: (linear.name not in MLP, linear.name))
    for _ in range(shape.num_hidden_layers):
        allocator.allocate(BF16 * norms_per_layer)
        for linear in linears:
            if linear.bias:
                allocator.allocate(BF16 * linear.out_features)
            _load_linear(allocator, linear, quantization, double=double)
    allocator.allocate(BF16 * shape.hidden_size)
    return allocator.allocated


def _warmup_bytes(shape: ModelShape, quantization: str) -> int:
    element = {"nf4": 0.5, "int8": 1.0, "none": 2.0}[quantization]
    kept = shape.embedding_parameters + shape.norm_parameters + shape.bias_parameters
    return int(element * shape.linear_parameters) + BF16 * kept


def _load_linear(
    allocator: CachingAllocator, linear: Linear, quantization: str, *, double: bool
) -> None:
    weights = linear.parameters
    loaded = allocator.allocate(BF16 * weights)
    if quantization == "none":
        return
    if quantization == "int8":
        narrowed = allocator.allocate(BF16 * weights)  # fp16, as the kernel wants it
        allocator.allocate(weights)
        allocator.allocate(FP32 * linear.out_features)
        _free(allocator, narrowed, loaded)
        return
    blocks = -(-weights // NF4_BLOCK)
    scales = allocator.allocate(FP32 * blocks)
    allocator.allocate(weights // 2)
    allocator.allocate(16 * FP32)
    if double:
        allocator.allocate(FP32)
        centred = allocator.allocate(FP32 * blocks)
        allocator.allocate(FP32 * -(-blocks // NESTED_BLOCK))
        allocator.allocate(blocks)
        allocator.allocate(256 * FP32)
        _free(allocator, centred, scales)
    _free(allocator, loaded)


def _free(allocator: CachingAllocator, *blocks: Block) -> None:
    for block in blocks:
        allocator.free(block)
