"""Classifies why training stopped early (OOM, divergence, zero gradients) and at which step."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from vram_search.train.breakdown import find_owners
from vram_search.train.model import allocated_bytes
from vram_search.units import parse_bytes

_OUT_OF_MEMORY = (
    "out of memory",
    "_STATUS_ALLOC_FAILED",
    "when calling `cublasCreate(handle)`",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
"""Messages of an out-of-memory for which torch raises no class of its own. They come from CUDA and
Triton, cuBLAS and cuDNN, and torch's CPU allocator. On a full card `cublasCreate` fails with
NOT_INITIALIZED. bitsandbytes' Python code raises nothing: its buffers are torch's, except paged
states, for which the C library prints "Error out of memory" and exits with 1."""


@dataclass
class TrialPosition:
    """The current position of a trial, which a failure reports."""

    stage: str = "probe"
    step: int = 0
    """The stage's current optimizer step or, between steps, the last one; counted from 1."""
    batch_shape: tuple[int, int] | None = None
    """The latest micro-batch or evaluation batch: rows, tokens of the longest."""
    parts: dict[str, int] = field(default_factory=dict)
    """Bytes that were allocated at an out-of-memory, by part."""
    on_batch: Callable[[], None] = lambda: None
    """Called before each batch: the training makes progress."""

    def note(self, batch_shape: tuple[int, int]) -> None:
        """Notes the shape of the next batch."""
        self.batch_shape = batch_shape
        self.on_batch()


class DivergedError(Exception):
    """The loss or the gradient is not a finite number any more."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns True if memory ran out on the card or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def is_out_of_host_memory(error: BaseException) -> bool:
    """Returns True if the memory that ran out is the host's."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def noting_parts(
    position: TrialPosition, model: Any, optimizer: Callable[[], Any]
) -> Iterator[None]:
    """Notes the allocated bytes by part if memory runs out and they are not known yet."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) and not position.parts:
            position.parts = allocated_parts(model, optimizer())
        raise


def allocated_parts(model: Any, optimizer: Any) -> dict[str, int]:
    """Returns the bytes allocated now by part, without using the allocator's history.

    Activations therefore count as `other`. The dictionary is empty without a GPU.
    """
    allocated = allocated_bytes()
    if allocated is None:
        return {}
    parts: Counter[str] = Counter()
    for (_, size), part in find_owners(model, optimizer).items():
        parts[part] += size
    return {**parts, "other": allocated - parts.total()}


def requested_bytes(message: str) -> int | None:
    """Returns the bytes of the request that failed if the message holds them."""
    match = re.search(r"[Tt]ried to allocate ([0-9.]+ (?:[KMG]iB|bytes))", message)
    return parse_bytes(match[1].replace("bytes", "B")) if match else None


def first_sentences(message: str, count: int = 2) -> str:
    """Returns the first sentences of a message; torch's messages are a paragraph long."""
    return ". ".join(message.strip().splitlines()[0].split(". ")[:count])
