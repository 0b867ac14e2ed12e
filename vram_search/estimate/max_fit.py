"""The largest rank, cutoff_len and micro-batch that are predicted to fit a card."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from vram_search.estimate.memory.predict import Estimate, predict
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.spec.limits import MAX_RANK

CUTOFFS = range(256, 32768 + 1, 256)
MICRO_BATCHES = range(1, 1024 + 1)
RANKS = [2**power for power in range(MAX_RANK.bit_length())]
"""The values that are tried."""
NEAR = 0.12
"""Share of the budget by which the closed form may differ from a replay."""


@dataclass(frozen=True)
class Largest:
    """The largest value that fits, the others given; None where the smallest does not."""

    cutoff_len: int | None
    micro_batch: int | None
    lora_rank: int | None
    required_bytes: int
    """Required bytes of the largest value that fits; of the smallest value if none fits."""
    fits: bool
    at_limit: bool
    """Nothing larger was tried."""


@dataclass(frozen=True)
class Cell:
    """Predicted bytes of one cutoff_len with one micro-batch, and whether they fit."""

    cutoff_len: int
    micro_batch: int
    required_bytes: int
    share: float
    """Share of the card's budget, including the margin."""

    @property
    def fits(self) -> bool:
        return self.share <= 1


Grid = list[list[Cell]]
"""Rows of cells; a row has one cutoff_len, a column one micro-batch."""


@dataclass
class MaxFit:
    """Asks the memory model, each question once.

    Within NEAR of the budget, required bytes come from a replay of the allocator; farther away, the
    closed form is enough for the answer.
    """

    workload: Workload
    limit: MemoryBudget
    _known: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def required_bytes(self, *, cutoff_len: int, micro_batch: int, lora_rank: int) -> int:
        key = (cutoff_len, micro_batch, lora_rank)
        if key not in self._known:
            asked = replace(
                self.workload,
                cutoff_len=cutoff_len,
                per_device_train_batch_size=micro_batch,
                lora_rank=lora_rank,
            )
            self._known[key] = self._required(predict(asked, self.limit.hardware))
        return self._known[key]

    def _required(self, estimate: Estimate) -> int:
        budget = self.limit.budget_bytes
        needed = self.limit.needed_bytes(estimate.required_bytes)
        if abs(needed - budget) <= NEAR * budget:
            return estimate.with_replay().required_bytes
        return estimate.required_bytes

    def largest_cutoff_len(self, micro_batch: int) -> Largest:
        return self._largest("cutoff_len", CUTOFFS, {"micro_batch": micro_batch})

    def largest_micro_batch(self, cutoff_len: int) -> Largest:
        return self._largest("micro_batch", MICRO_BATCHES, {"cutoff_len": cutoff_len})

    def _largest(self, name: str, values: range, given: dict[str, int]) -> Largest:
        place: dict[str, Any] = {"lora_rank": self.workload.lora_rank, **given}

        def required(value: int) -> int:
            return self.required_bytes(**place, **{name: value})

        best = last_that_fits(values, required, self.limit.fits)
        return Largest(
            **place,
            **{name: best},
            required_bytes=required(values[0] if best is None else best),
            fits=best is not None,
            at_limit=best == values[-1],
        )

    def largest_rank(self, cutoff_len: int, micro_batch: int) -> Largest:
        """Tries from the top: bytes may fall with the rank, where states get 8 bits or paged."""
        required = 0
        for rank in reversed(RANKS):
            required = self.required_bytes(
                cutoff_len=cutoff_len, micro_batch=micro_batch, lora_rank=rank
            )
            if self.limit.fits(required):
                return Largest(cutoff_len, micro_batch, rank, required, True, rank == RANKS[-1])
        return Largest(cutoff_len, micro_batch, None, required, False, False)

    def grid(self, cutoff_lens: Iterable[int], micro_batches: Iterable[int]) -> Grid:
        """A cell for each cutoff_len with each micro-batch."""
        columns = list(micro_batches)
        return [[self._cell(length, batch) for batch in columns] for length in cutoff_lens]

    def _cell(self, cutoff_len: int, micro_batch: int) -> Cell:
        required = self.required_bytes(
            cutoff_len=cutoff_len, micro_batch=micro_batch, lora_rank=self.workload.lora_rank
        )
        share = self.limit.needed_bytes(required) / self.limit.budget_bytes
        return Cell(cutoff_len, micro_batch, required, share)


def last_that_fits(
    values: range, required: Callable[[int], int], fits: Callable[[int], bool]
) -> int | None:
    """The largest value whose required bytes fit; they grow with the value."""
    count = bisect_left(values, True, key=lambda value: not fits(required(value)))
    return values[count - 1] if count else None
