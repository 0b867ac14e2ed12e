"""The blocks that loading leaves, for a model that is known by its module tree.

As `loading`, which knows modelled families; here every tensor is loaded by its own name, in
transformers' order (`core_model_loading.py`, `dot_natural_key`).

Before it loads, transformers allocates the bytes of all tensors at once, without those that are
tied (`modeling_utils.py`, `caching_allocator_warmup`). A head that is tied by default and has
weights of its own in the checkpoint is left out too: it is untied only after it was loaded
(`tie_weights`). So were the heads of the measured runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from vram_search.estimate.memory.allocator import Block, CachingAllocator
from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.loading import Loaded, load_weights
from vram_search.spec.model_tree import LinearGroup, ModelTree, TensorGroup

_ELEMENT = {"nf4": 0.5, "int8": 1.0, "none": 2.0}
"""Bytes of a weight as transformers counts them before it loads (`param_element_size`)."""


@dataclass(frozen=True)
class _Tensor:
    """One tensor to load: the weights of a linear layer that is quantised, or any other."""

    name: str
    elements: int
    element_bytes: int
    quantized: LinearGroup | None = None


@lru_cache(maxsize=64)
def load_tree(tree: ModelTree, quantization: str, *, double: bool, upcast: bool) -> Loaded:
    """The base model's blocks; with `upcast`, what is not quantised turned into fp32 afterwards."""
    allocator = CachingAllocator()
    tensors = sorted(_parameters(tree), key=lambda tensor: _natural_key(tensor.name))
    warmup = sum(_warmup_bytes(tensor, quantization) for tensor in tensors)
    if tree.is_usually_tied:
        warmup -= sum(BF16 * head.parameters for head in tree.linears if head.part == "head")
    allocator.free(allocator.allocate(int(warmup)))
    kept: list[tuple[Block, int]] = []
    for tensor in tensors:
        if tensor.quantized is None:
            size = tensor.elements * tensor.element_bytes
            block = allocator.allocate(size)
            if tensor.element_bytes == BF16:
                kept.append((block, size))
        else:
            group = tensor.quantized
            block = load_weights(
                allocator, group.parameters, group.out_features, quantization, double=double
            )
            if quantization == "none":
                kept.append((block, BF16 * group.parameters))
    for buffer in (group for group in tree.tensors if group.is_buffer):
        for _ in range(buffer.count):
            allocator.allocate(buffer.elements * buffer.element_bytes)
    if upcast:
        for block, size in kept:
            allocator.allocate(FP32 // BF16 * size)
            allocator.free(block)
    return Loaded(allocator.allocated, allocator.reserved, allocator.gaps())


def _parameters(tree: ModelTree) -> Iterator[_Tensor]:
    for linear in tree.linears:
        element = FP32 if linear.storage == "fp32" else BF16
        quantized = linear if linear.storage == "nf4" else None
        for name in linear.names():
            if linear.storage != "shared":
                yield _Tensor(f"{name}.weight", linear.parameters, element, quantized)
            if linear.has_bias:
                yield _Tensor(f"{name}.bias", linear.out_features, element)
    for group in tree.tensors:
        yield from () if group.is_buffer else _of_group(group)


def _of_group(group: TensorGroup) -> Iterator[_Tensor]:
    for numbers in group.numbers:
        yield _Tensor(group.pattern.format(*numbers), group.elements, group.element_bytes)


def _warmup_bytes(tensor: _Tensor, quantization: str) -> float:
    return tensor.elements * (
        tensor.element_bytes if tensor.quantized is None else _ELEMENT[quantization]
    )


def _natural_key(name: str) -> list[tuple[int, str, int]]:
    """Sorts numbers first and by value, also those at the end of a word."""
    key = []
    for word in name.split("."):
        text = word.rstrip("0123456789")
        number = int(word[len(text) :] or -1)
        key.append((0, "", number) if not text else (1, text, number))
    return key
