"""Replays the CUDA allocator's history to find the blocks that were live at any moment.

torch records each allocation with its address, the bytes asked for and Python's stack, and each
release (torch `torch/cuda/memory.py`, `_record_memory_history`, `_snapshot`;
`torch/csrc/cuda/Module.cpp`, `THCPModule_memorySnapshot`).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from vram_search.spec.allocator_sizes import SMALL_REQUEST, block_size

Snapshot = dict[str, Any]
"""The allocator's state as `patches.memory_snapshot` returns it."""


@dataclass(eq=False, slots=True)
class HistoryBlock:
    """A block of the allocator."""

    address: int
    requested: int
    size: int
    """Bytes that the block takes, as torch's statistics count them."""
    frames: list[dict[str, Any]]
    """Python's stack at the allocation, innermost call first; empty in autograd's thread."""
    born: int = -1
    """Event that allocated the block; -1 if it is older than the history."""
    died: int | None = None
    """Event that freed the block; None if it was not freed."""


class AllocatorHistory:
    """All blocks of a history.

    An event holds the requested bytes. The block's own size follows from where free memory ends
    (torch `c10/cuda/CUDACachingAllocator.cpp`, `round_size`, `should_split`).
    """

    def __init__(self, before: Snapshot, events: list[dict[str, Any]]) -> None:
        segments = before["segments"]
        self.events = events
        self.expandable = any(segment["is_expandable"] for segment in segments)
        self.live = {block["address"]: _live_block(block) for block in _allocated(before)}
        self.blocks = list(self.live.values())
        # Free memory ends where a block begins or a segment ends.
        held = [b["address"] for b in _blocks(before) if b["state"] != "inactive"]
        ends = [segment["address"] + segment["total_size"] for segment in segments]
        self._ends = sorted([*held, *ends])
        self.allocated = sum(block.size for block in self.blocks)
        self.peak, self.peak_event = self.allocated, -1
        for index, event in enumerate(events):
            self._apply(index, event)

    def _apply(self, index: int, event: dict[str, Any]) -> None:
        action, address = event["action"], event.get("addr", 0)
        if action == "alloc":
            size = self._block_size(address, event["size"])
            block = HistoryBlock(address, event["size"], size, event.get("frames", []), born=index)
            self.live[address] = block
            self.blocks.append(block)
            insort(self._ends, address)
            self.allocated += size
            if self.allocated > self.peak:
                self.peak, self.peak_event = self.allocated, index
        elif action == "free_requested":
            block = self.live.pop(address)
            block.died = index
            self.allocated -= block.size
        elif action == "free_completed":
            self._remove_end(address)
        elif action == "segment_alloc":
            insort(self._ends, address + event["size"])
        elif action == "segment_free":
            self._remove_end(address + event["size"])

    def _block_size(self, address: int, requested: int) -> int:
        rounded = block_size(requested)
        if self.expandable or rounded <= SMALL_REQUEST:
            return rounded
        free = self._ends[bisect_right(self._ends, address)] - address
        return rounded if free - rounded > SMALL_REQUEST else free

    def _remove_end(self, end: int) -> None:
        del self._ends[bisect_right(self._ends, end) - 1]

    def live_at(self, event: int) -> list[HistoryBlock]:
        """Returns the blocks that were live right after an event."""
        return [
            block
            for block in self.blocks
            if block.born <= event and (block.died is None or block.died > event)
        ]

    def ends_as(self, after: Snapshot) -> bool:
        """Returns True if the history leads to the blocks that the allocator has."""
        allocated = {block["address"]: block["size"] for block in _allocated(after)}
        return allocated == {address: block.size for address, block in self.live.items()}


def _blocks(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    return chain.from_iterable(segment["blocks"] for segment in snapshot["segments"])


def _allocated(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    return (block for block in _blocks(snapshot) if block["state"] == "active_allocated")


def _live_block(block: dict[str, Any]) -> HistoryBlock:
    frames = block.get("frames", [])
    return HistoryBlock(block["address"], block["requested_size"], block["size"], frames)
