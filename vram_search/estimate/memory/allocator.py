"""torch's caching allocator, simulated: which block a request gets, and what is reserved.

Source: torch `c10/cuda/CUDACachingAllocator.cpp` (`malloc`, `get_free_block`, `should_split`,
`alloc_block`, `release_cached_blocks`). Without expandable segments and without `max_split_size`.
Checked against recorded event streams of an H200 (docs/experiments.md).
"""

from __future__ import annotations

import operator
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from vram_search.spec.allocator_sizes import (
    MEDIUM_SEGMENT,
    MIN_BLOCK,
    MIN_LARGE_REQUEST,
    ROUND_LARGE,
    SMALL_REQUEST,
    SMALL_SEGMENT,
    block_size,
)

SIZE = 1 << 52
"""A block's key is `size * SIZE + address`: the smallest key that is large enough is the best fit.
Whole numbers are compared in half the time of tuples."""


class LimitMet(Exception):  # noqa: N818 - no error
    """A request meets the limit: it needs a new segment, and there is no room below the limit."""


class OutOfMemoryError(Exception):
    """A request fits under the limit neither at once nor after the cache was emptied."""


@dataclass(eq=False, slots=True)
class Block:
    """A piece of a segment; `previous` and `next` are its neighbours there."""

    address: int
    size: int
    key: int
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
    pauses: bool = False
    """A request that meets the limit changes nothing and raises LimitMet."""
    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    _keys: dict[bool, list[int]] = field(default_factory=lambda: {True: [], False: []})
    """Keys of the free blocks of the small (True) and the large pool, sorted."""
    _free: dict[int, Block] = field(default_factory=dict)
    """The free blocks, by key."""
    _whole: dict[int, Block] = field(default_factory=dict)
    """Blocks that were whole segments when they were freed, by address."""
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
            block = allocator._appended(gap.size, gap.small)
            block.free = True
            if gap.whole:
                allocator._whole[block.address] = block
            else:
                block.previous = Block(0, 0, 0, small=False)
            insort(allocator._keys[gap.small], block.key)
            allocator._free[block.key] = block
        return allocator

    def copy(self, live: dict[int, Block]) -> tuple[CachingAllocator, dict[int, Block]]:
        """A copy, and the copies of the blocks in use by their names in `live`."""
        copies = {
            block: Block(block.address, block.size, block.key, block.small, block.free)
            for blocks in (self._free, live)
            for block in blocks.values()
        }
        for block, copied in copies.items():  # a neighbour that is in neither is held for good
            if block.previous is not None:
                copied.previous = copies.get(block.previous, block.previous)
            if block.next is not None:
                copied.next = copies.get(block.next, block.next)
        allocator = replace(
            self,
            _keys={small: keys.copy() for small, keys in self._keys.items()},
            _free={key: copies[block] for key, block in self._free.items()},
            _whole={a: copies[block] for a, block in self._whole.items() if block in copies},
        )
        return allocator, {name: copies[block] for name, block in live.items()}

    def gaps(self) -> tuple[Gap, ...]:
        """The free pieces of the large pool."""
        blocks = map(self._free.__getitem__, self._keys[False])
        return tuple(Gap(b.size, b.previous is None and b.next is None) for b in blocks)

    def allocate(self, size: int) -> Block:
        """The block a request gets.

        Raises:
            OutOfMemoryError: not even an emptied cache leaves room below the limit.
            LimitMet: the request meets the limit, and `pauses` is set.
        """
        return self.take(block_size(size) or MIN_BLOCK)

    def take(self, size: int) -> Block:
        """The same for a multiple of MIN_BLOCK, above 0."""
        # A replay calls this and `free` sixty thousand times: they call few functions.
        small = size <= SMALL_REQUEST
        keys = self._keys[small]
        index = bisect_left(keys, size * SIZE)
        if index < len(keys):
            block = self._free.pop(keys.pop(index))
        else:
            block = self._new_segment(size, small)
        block.free = False
        remaining = block.size - size
        if remaining > (0 if small else SMALL_REQUEST):
            address = block.address + size
            key = remaining * SIZE + address
            rest = Block(address, remaining, key, small, True, block, block.next)
            if block.next is not None:
                block.next.previous = rest
            block.next, block.size = rest, size
            block.key -= remaining * SIZE
            insort(self._keys[small], key)
            self._free[key] = rest
        self.allocated += block.size
        if self.allocated > self.peak_allocated:
            self.peak_allocated = self.allocated
        return block

    def free(self, block: Block) -> None:
        """Gives a block back; free neighbours become one."""
        self.allocated -= block.size
        block.free = True
        keys = self._keys[block.small]
        before, after = block.previous, block.next
        if before is not None and before.free:
            del keys[bisect_left(keys, before.key)], self._free[before.key]
            block.address = before.address
            block.key = before.key + block.size * SIZE
            block.size += before.size
            before = block.previous = before.previous
            if before is not None:
                before.next = block
        if after is not None and after.free:
            del keys[bisect_left(keys, after.key)], self._free[after.key]
            block.key += after.size * SIZE
            block.size += after.size
            after = block.next = after.next
            if after is not None:
                after.previous = block
        if before is None and after is None:
            self._whole[block.address] = block
        insort(keys, block.key)
        self._free[block.key] = block

    def has_free(self, sizes: Sequence[int]) -> bool:
        """As many of the largest free blocks as there are sizes hold them, one each."""
        largest = [key // SIZE for key in self._keys[False][-len(sizes) :]]
        if len(largest) < len(sizes):
            return False
        return all(map(operator.ge, largest, sorted(sizes)))

    def empty_cache(self) -> None:
        """Releases the segments that are wholly free."""
        for block in self._whole.values():
            alone = block.previous is None and block.next is None
            if alone and self._free.pop(block.key, None) is not None:
                keys = self._keys[block.small]
                del keys[bisect_left(keys, block.key)]
                self.reserved -= block.size
        self._whole.clear()

    def _new_segment(self, size: int, small: bool) -> Block:
        segment = SMALL_SEGMENT
        if not small:
            segment = MEDIUM_SEGMENT
            if size >= MIN_LARGE_REQUEST:
                segment = -(-size // ROUND_LARGE) * ROUND_LARGE
        if self.reserved + segment > self.limit:
            if self.pauses:
                raise LimitMet
            self.empty_cache()
            if self.reserved + segment > self.limit:
                if not self.grows:
                    raise OutOfMemoryError(size)
                self.limit = self.reserved + segment
        self.reserved += segment
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return self._appended(segment, small)

    def _appended(self, size: int, small: bool) -> Block:
        """A block in use at a new address."""
        address = self._next_address
        self._next_address += size + ROUND_LARGE
        return Block(address, size, size * SIZE + address, small)
