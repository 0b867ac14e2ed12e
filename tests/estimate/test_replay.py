"""A training that pauses at its limit, and copies of it that continue under another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vram_search.estimate.memory.allocator import CachingAllocator, Chunk, SizedEvent
from vram_search.estimate.memory.replay import Training
from vram_search.units import KIB, MIB

START = 40 * MIB
"""The limit at which a training pauses first."""


@st.composite
def programs(draw: st.DrawFn) -> list[Chunk]:
    """Requests and releases, in chunks of four."""
    sizes = st.sampled_from([64 * KIB, 2 * MIB, 6 * MIB, 8 * MIB, 12 * MIB, 30 * MIB])
    events: list[SizedEvent] = []
    live: list[int] = []
    for number in range(draw(st.integers(4, 40))):
        releases: bool = draw(st.booleans())
        if live and releases:
            events.append((0, live.pop(draw(st.integers(0, len(live) - 1)))))
        events.append((draw(sizes), number))
        live.append(number)
    return [(events[i : i + 4], 0) for i in range(0, len(events), 4)]


def books(allocator: CachingAllocator) -> tuple[object, ...]:
    return (
        allocator.limit,
        allocator.allocated,
        allocator.reserved,
        allocator.peak_allocated,
        allocator.peak_reserved,
        allocator.gaps(),
    )


def started(program: list[Chunk], limit: float) -> Training:
    """A training that continues from a model with two gaps."""
    allocator = CachingAllocator()
    held = [allocator.allocate(size * MIB) for size in (12, 30)]
    allocator.free(held[1])
    allocator.limit = limit
    return Training(allocator, program)


@given(programs())
def test_training_that_pauses_continues_as_one_from_the_start(program: list[Chunk]) -> None:
    paused = started(program, START)
    paused.allocator.pauses = True
    paused.play()
    limit = START
    while paused.remaining:
        whole = started(program, limit)
        whole.allocator.grows = True
        whole.play()
        found = paused.with_growing_limit()
        assert books(found) == books(whole.allocator)
        limit = int(found.limit) + 2 * MIB
        paused.allocator.limit = limit
        paused.play()
    whole = started(program, limit)
    whole.play()
    assert books(paused.allocator) == books(whole.allocator)


def test_request_at_the_limit_is_the_first_that_remains() -> None:
    program: list[Chunk] = [([(30 * MIB, 0), (0, 0)], 0), ([(30 * MIB, 0), (12 * MIB, 1)], 10)]
    training = Training(CachingAllocator(limit=40 * MIB, pauses=True), program)
    training.play()
    assert training.remaining == [([(12 * MIB, 1)], 10)]
    assert list(training.live) == [10]
    assert training.allocator.reserved == 30 * MIB
