"""What ends a training early, told apart: out of memory, divergence, a sham."""

from __future__ import annotations

import re

import torch

from vram_search.units import parse_bytes

_OUT_OF_MEMORY = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
"""How CUDA, cuBLAS, bitsandbytes and torch's CPU allocator word it where no own class is raised."""


class DivergedError(Exception):
    """The loss or the gradient is not a finite number any more."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the card or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def requested_bytes(message: str) -> int | None:
    """The bytes that were asked for in vain, where the message tells."""
    if match := re.search(r"[Tt]ried to allocate ([0-9.]+ [KMG]iB)", message):
        return parse_bytes(match[1])
    if match := re.search(r"[Yy]ou tried to allocate ([0-9]+) bytes", message):
        return int(match[1])
    return None


def first_sentences(message: str, count: int = 2) -> str:
    """The start of a message; torch's goes on for a paragraph."""
    return ". ".join(message.strip().splitlines()[0].split(". ")[:count])
