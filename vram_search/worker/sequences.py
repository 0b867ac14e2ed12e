"""Counts the sequences that a trial reads in an epoch: rows, or rows that were joined."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from vram_search.data.packing import pack
from vram_search.spec import Hyperparameters


def sequences_an_epoch(point: Hyperparameters, row_tokens: Sequence[int]) -> int:
    """Returns the number of sequences that a point's training reads in an epoch.

    Args:
        row_tokens: lengths of the training rows in tokens, uncut.
    """
    if not point.packing:
        return len(row_tokens)
    return _count(tuple(row_tokens), point.cutoff_len)


@lru_cache(maxsize=64)
def _count(row_tokens: tuple[int, ...], cutoff_len: int) -> int:
    return len(pack(row_tokens, cutoff_len))
