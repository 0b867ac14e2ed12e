"""The simulated caching allocator: real event streams, torch's rounding, and what always holds."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_search.estimate.memory.allocator import Block, CachingAllocator, OutOfMemoryError
from vram_search.units import KIB, MIB

DATA = Path(__file__).parents[1] / "fixtures"
TRACES = ("allocator_trace_qwen2.5-0.5b.json.gz", "allocator_trace_qwen2.5-3b.json.gz")


@pytest.mark.parametrize("name", TRACES)
def test_recorded_stream_gives_the_peaks_of_the_card_to_the_byte(name: str) -> None:
    trace: dict[str, Any] = json.loads(gzip.decompress((DATA / name).read_bytes()))
    allocator = CachingAllocator()
    blocks: list[Block] = []
    for event in trace["events"]:
        if event >= 0:
            blocks.append(allocator.allocate(event))
        else:
            allocator.free(blocks[event])
    assert allocator.peak_allocated == trace["max_allocated_bytes"]
    assert allocator.peak_reserved == trace["max_reserved_bytes"]


@pytest.mark.parametrize(
    ("request_bytes", "block", "segment"),
    [
        (0, 512, 2 * MIB),
        (1, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB, 12 * MIB),  # a remainder of 1 MiB stays with the block
        (11 * MIB - 512, 11 * MIB - 512, 12 * MIB),
    ],
)
def test_first_request_takes_a_segment_by_its_size(
    request_bytes: int, block: int, segment: int
) -> None:
    allocator = CachingAllocator()
    assert allocator.allocate(request_bytes).size == block
    assert (allocator.allocated, allocator.reserved) == (block, segment)


def test_smallest_free_block_that_is_large_enough_is_taken() -> None:
    allocator = CachingAllocator()
    held = [allocator.allocate(size * MIB) for size in (40, 20, 30)]
    for block in held:
        allocator.free(block)
    assert allocator.allocate(19 * MIB).address == held[1].address
    assert allocator.reserved == 90 * MIB


def test_small_requests_never_come_from_large_segments() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(64 * MIB))
    allocator.allocate(KIB)
    assert allocator.reserved == 66 * MIB


def test_freed_neighbours_become_one_block() -> None:
    allocator = CachingAllocator()
    whole = allocator.allocate(60 * MIB)
    allocator.free(whole)
    thirds = [allocator.allocate(20 * MIB) for _ in range(3)]
    for block in (thirds[0], thirds[2], thirds[1]):
        allocator.free(block)
    assert allocator.allocate(60 * MIB).size == 60 * MIB
    assert allocator.reserved == 60 * MIB


def test_cache_is_given_back_before_a_request_fails() -> None:
    allocator = CachingAllocator(limit=100 * MIB)
    allocator.free(allocator.allocate(80 * MIB))
    allocator.allocate(90 * MIB)
    assert allocator.reserved == 90 * MIB
    with pytest.raises(OutOfMemoryError):
        allocator.allocate(20 * MIB)


LIMIT = 64 * MIB
REQUESTS = st.one_of(
    st.integers(0, 2 * MIB), st.integers(MIB, 40 * MIB), st.sampled_from([MIB, 10 * MIB])
)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), REQUESTS),
        st.tuples(st.just("free"), st.integers(0, 100)),
        st.tuples(st.just("empty cache"), st.just(0)),
    ),
    max_size=60,
)


def segment_bytes(size: int) -> int:
    """As torch's `get_allocation_size`."""
    if size <= MIB:
        return 2 * MIB
    return 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB


@given(ACTIONS)
def test_any_sequence_keeps_the_books_in_order(actions: list[tuple[str, int]]) -> None:
    allocator = CachingAllocator(limit=LIMIT)
    live: list[Block] = []
    for action, number in actions:
        if action == "allocate":
            try:
                live.append(allocator.allocate(number))
            except OutOfMemoryError:
                rounded = max(512, -(-number // 512) * 512)
                assert allocator.reserved + segment_bytes(rounded) > LIMIT
                before = allocator.reserved
                allocator.empty_cache()
                assert allocator.reserved == before, "the cache had something left to give back"
            else:
                assert live[-1].size >= number
        elif action == "free" and live:
            allocator.free(live.pop(number % len(live)))
        elif action == "empty cache":
            allocator.empty_cache()
        assert allocator.allocated == sum(block.size for block in live)
        assert allocator.allocated <= allocator.reserved <= LIMIT
        assert allocator.peak_allocated <= allocator.peak_reserved <= LIMIT
        spans = sorted((block.address, block.address + block.size) for block in live)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    for block in live:
        allocator.free(block)
    allocator.empty_cache()
    assert (allocator.allocated, allocator.reserved) == (0, 0)


def test_growing_limit_ends_at_what_the_requests_need() -> None:
    allocator = CachingAllocator(limit=0, grows=True)
    held = allocator.allocate(40 * MIB)
    allocator.free(allocator.allocate(30 * MIB))
    allocator.allocate(50 * MIB)
    assert allocator.limit == allocator.reserved == 90 * MIB, "the cached 30 MiB were released"
    allocator.free(held)
    allocator.allocate(20 * MIB)
    assert allocator.limit == 90 * MIB
