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


SizedEvent = tuple[int, int]
"""Request of so many bytes, a multiple of MIN_BLOCK, for a block with a number; the block's release
with 0 bytes."""
Chunk = tuple[list[SizedEvent], int]
"""Events, and what their numbers begin at: the layers of a model share a list."""


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
    """`play` ends before a request that meets the limit."""
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
        """
        live: dict[int, Block] = {}
        self.play([([(block_size(size) or MIN_BLOCK, 0)], 0)], live)
        return live[0]

    def free(self, block: Block) -> None:
        """Gives a block back; free neighbours become one."""
        self.play([([(0, 0)], 0)], {0: block})

    def play(self, chunks: Iterable[Chunk], live: dict[int, Block]) -> list[Chunk]:
        """Plays requests and releases; returns what remains where a request meets the limit and
        `pauses` is set.

        A replay has sixty thousand events, so this is one loop without calls.

        Args:
            live: the blocks in use, by number.

        Raises:
            OutOfMemoryError: as `allocate`.
        """
        pools, free, whole = self._keys, self._free, self._whole
        allocated, peak = self.allocated, self.peak_allocated
        following = iter(chunks)
        try:
            for chunk, offset in following:
                events = iter(chunk)
                for size, number in events:
                    if size:
                        keys = pools[size <= SMALL_REQUEST]
                        index = bisect_left(keys, size * SIZE)
                        if index < len(keys):
                            block = free.pop(keys.pop(index))
                        else:
                            block = self._new_segment(size)
                        block.free = False
                        remaining = block.size - size
                        if remaining and (remaining > SMALL_REQUEST or block.small):
                            address, after = block.address + size, block.next
                            key = remaining * SIZE + address
                            rest = Block(address, remaining, key, block.small, True, block, after)
                            if after is not None:
                                after.previous = rest
                            block.next, block.size = rest, size
                            block.key -= remaining * SIZE
                            insort(keys, key)
                            free[key] = rest
                        allocated += block.size
                        if allocated > peak:
                            peak = allocated
                        live[number + offset] = block
                        continue
                    block = live.pop(number + offset)
                    allocated -= block.size
                    block.free = True
                    keys = pools[block.small]
                    before, after = block.previous, block.next
                    if before is not None and before.free:
                        key = before.key
                        del keys[bisect_left(keys, key)], free[key]
                        block.address, block.key = before.address, key + block.size * SIZE
                        block.size += before.size
                        before = block.previous = before.previous
                        if before is not None:
                            before.next = block
                    if after is not None and after.free:
                        key = after.key
                        del keys[bisect_left(keys, key)], free[key]
                        block.key += after.size * SIZE
                        block.size += after.size
                        after = block.next = after.next
                        if after is not None:
                            after.previous = block
                    if before is None and after is None:
                        whole[block.address] = block
                    key = block.key
                    insort(keys, key)
                    free[key] = block
        except LimitMet:
            return [([(size, number), *events], offset), *following]
        finally:
            self.allocated, self.peak_allocated = allocated, peak
        return []

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

    def _new_segment(self, size: int) -> Block:
        segment, small = SMALL_SEGMENT, size <= SMALL_REQUEST
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
