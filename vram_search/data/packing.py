"""Joins rows to sequences of up to cutoff_len tokens (`packing`), as LLaMA-Factory's
`neat_packing` does: each row sees itself alone.

The rule is that of LLaMA-Factory 0.9.5 (`data/processor/supervised.py`, `greedy_knapsack`), so that
an exported trial makes the same number of steps there.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

ROWS_AT_ONCE = 1000
"""Rows that are joined among themselves (LLaMA-Factory, `preprocessing_batch_size`)."""


def pack(lengths: Sequence[int], cutoff_len: int) -> list[list[int]]:
    """Returns the rows of each sequence, as places in `lengths`.

    A sequence takes the longest row that is left, then the longest that still fits, and so on.

    Args:
        lengths: tokens of each row, uncut; a row takes at most `cutoff_len` of them.
    """
    sequences: list[list[int]] = []
    for start in range(0, len(lengths), ROWS_AT_ONCE):
        part = range(start, min(start + ROWS_AT_ONCE, len(lengths)))
        waiting = sorted((min(lengths[place], cutoff_len), place) for place in part)
        while waiting:
            room, sequence = cutoff_len, []
            while found := bisect.bisect(waiting, (room, len(lengths))):
                length, place = waiting.pop(found - 1)
                room -= length
                sequence.append(place)
            sequences.append(sequence)
    return sequences
