"""What ends a training early, told apart: out of memory, divergence, a sham; and where it was."""

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
"""How CUDA and Triton, cuBLAS and cuDNN, and torch's CPU allocator word it where torch raises no
class of its own. On a full card `cublasCreate` fails with NOT_INITIALIZED. bitsandbytes' Python
code raises nothing: its buffers are torch's, except paged states, for which the C library prints
"Error out of memory" and exits with 1."""


@dataclass
class TrialPosition:
    """Where a trial is, kept up to date so that a failure can say where it happened."""

    stage: str = "probe"
    step: int = 0
    """The stage's optimizer step under way or, between steps, the last one; from 1."""
    batch_shape: tuple[int, int] | None = None
    """The latest micro-batch or evaluation batch: rows, tokens of the longest."""
    parts: dict[str, int] = field(default_factory=dict)
    """After an out-of-memory: what was allocated, by part."""

    def note(self, batch_shape: tuple[int, int]) -> None:
        """Takes the shape of the batch that comes next."""
        self.batch_shape = batch_shape


class DivergedError(Exception):
    """The loss or the gradient is not a finite number any more."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the card or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


@contextmanager
def noting_parts(
    position: TrialPosition, model: Any, optimizer: Callable[[], Any]
) -> Iterator[None]:
    """Where memory runs out, notes what was allocated, unless that is known already."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) and not position.parts:
            position.parts = allocated_parts(model, optimizer())
        raise


def allocated_parts(model: Any, optimizer: Any) -> dict[str, int]:
    """Bytes allocated now by part, without the allocator's history: activations are among
    `other`. Nothing without a GPU."""
    allocated = allocated_bytes()
    if allocated is None:
        return {}
    parts: Counter[str] = Counter()
    for (_, size), part in find_owners(model, optimizer).items():
        parts[part] += size
    return {**parts, "other": allocated - parts.total()}


def requested_bytes(message: str) -> int | None:
    """The bytes that were asked for in vain, where the message tells."""
    match = re.search(r"[Tt]ried to allocate ([0-9.]+ (?:[KMG]iB|bytes))", message)
    return parse_bytes(match[1].replace("bytes", "B")) if match else None


def first_sentences(message: str, count: int = 2) -> str:
    """The start of a message; torch's goes on for a paragraph."""
    return ". ".join(message.strip().splitlines()[0].split(". ")[:count])
