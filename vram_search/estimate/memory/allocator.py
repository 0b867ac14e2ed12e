"""torch's caching allocator, simulated: which block a request gets, and what is reserved.

Source: torch `c10/cuda/CUDACachingAllocator.cpp` (`malloc`, `get_free_block`, `should_split`,
`alloc_block`, `release_cached_blocks`). Without expandable segments and without `max_split_size`.
Checked against recorded event streams of an H200 (docs/experiments.md).
"""

from __future__ import annotations

import operator
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vram_search.spec.allocator_sizes import (
    MEDIUM_SEGMENT,
    MIN_BLOCK,
    MIN_LARGE_REQUEST,
    ROUND_LARGE,
    SMALL_REQUEST,
    SMALL_SEGMENT,
    block_size,
)


class OutOfMemoryError(Exception):
    """A request fits under the limit neither at once nor after the cache was emptied."""


@dataclass(eq=False, slots=True)
class Block:
    """A piece of a segment; `previous` and `next` are its neighbours there."""

    address: int
    size: int
    small: bool
    free: bool = False
    previous: Block | None = None
    next: Block | None = None


@dataclass(frozen=True)
class Gap:
    """A free piece of a segment."""

    size: int
    whole: bool
    """It is the whole segment, so that the segment can be released."""
    small: bool = False
    """True if the block belongs to the pool for requests up to 1 MiB."""


@dataclass(slots=True)
class CachingAllocator:
    """Allocated and reserved bytes after any sequence of requests, and their peaks."""

    limit: float = float("inf")
    grows: bool = False
    """The limit rises to what a request needs where it would fail."""
    met_limit: bool = False
    """A request found no room below the limit before the cache was emptied."""
    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    _free: dict[bool, list[tuple[int, int, Block]]] = field(
        default_factory=lambda: {True: [], False: []}
    )
    _next_address: int = 0

    @classmethod
    def resume(cls, allocated: int, reserved: int, gaps: Iterable[Gap]) -> CachingAllocator:
        """An allocator that holds `allocated` bytes for good and has these gaps."""
        allocator = cls(
            allocated=allocated,
            reserved=reserved,
            peak_allocated=allocated,
            peak_reserved=reserved,
        )
        for gap in gaps:
            pinned = None if gap.whole else Block(0, 0, small=False)
            address = allocator._next_address
            allocator._put(Block(address, gap.size, gap.small, True, pinned))
            allocator._next_address += gap.size + ROUND_LARGE
        return allocator

    def gaps(self) -> tuple[Gap, ...]:
        """The free pieces of the large pool."""
        return tuple(
            Gap(size, block.previous is None and block.next is None)
            for size, _, block in self._free[False]
        )

    def allocate(self, size: int) -> Block:
        """The block a request gets.

        Raises:
            OutOfMemoryError: not even an emptied cache leaves room below the limit.
        """
        # A replay calls this and `free` a hundred thousand times: they call few functions.
        if size % MIN_BLOCK or not size:
            size = block_size(size) or MIN_BLOCK
        small = size <= SMALL_REQUEST
        pool = self._free[small]
        index = bisect_left(pool, (size, -1))
        block = pool.pop(index)[2] if index < len(pool) else self._new_segment(size, small)
        block.free = False
        remaining = block.size - size
        if remaining > (0 if small else SMALL_REQUEST):
            rest = Block(block.address + size, remaining, small, True, block, block.next)
            if block.next:
                block.next.previous = rest
            block.next, block.size = rest, size
            insort(self._free[small], (remaining, rest.address, rest))
        self.allocated += block.size
        if self.allocated > self.peak_allocated:
            self.peak_allocated = self.allocated
        return block

    def free(self, block: Block) -> None:
        """Gives a block back; free neighbours become one."""
        self.allocated -= block.size
        block.free = True
        pool = self._free[block.small]
        before, after = block.previous, block.next
        if before is not None and before.free:
            del pool[bisect_left(pool, (before.size, before.address))]
            block.address, block.size = before.address, block.size + before.size
            block.previous = before.previous
            if block.previous:
                block.previous.next = block
        if after is not None and after.free:
            del pool[bisect_left(pool, (after.size, after.address))]
            block.size += after.size
            block.next = after.next
            if block.next:
                block.next.previous = block
        insort(pool, (block.size, block.address, block))

    def has_free(self, sizes: Sequence[int]) -> bool:
        """As many of the largest free blocks as there are sizes hold them, one each."""
        largest = [size for size, _, _ in self._free[False][-len(sizes) :]]
        if len(largest) < len(sizes):
            return False
        return all(map(operator.ge, largest, sorted(sizes)))

    def empty_cache(self) -> None:
        """Releases the segments that are wholly free."""
        for small, pool in self._free.items():
            kept = []
            for entry in pool:
                if entry[2].previous is None and entry[2].next is None:
                    self.reserved -= entry[0]
                else:
                    kept.append(entry)
            self._free[small] = kept

    def _new_segment(self, size: int, small: bool) -> Block:
        segment = SMALL_SEGMENT
        if not small:
            segment = MEDIUM_SEGMENT
            if size >= MIN_LARGE_REQUEST:
                segment = -(-size // ROUND_LARGE) * ROUND_LARGE
        if self.reserved + segment > self.limit:
            self.met_limit = True
            self.empty_cache()
            if self.reserved + segment > self.limit:
                if not self.grows:
                    raise OutOfMemoryError(size)
                self.limit = self.reserved + segment
        self.reserved += segment
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        block = Block(self._next_address, segment, small)
        self._next_address += segment + ROUND_LARGE
        return block

    def _put(self, block: Block) -> None:
        insort(self._free[block.small], (block.size, block.address, block))
