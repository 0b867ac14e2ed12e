"""Plays the requests of a training on the simulated allocator, with and without a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vram_search.estimate.memory.allocation_trace import LayerEvents, Recorder, Sizes, Steps
from vram_search.estimate.memory.allocator import Block, CachingAllocator, Chunk, Gap
from vram_search.estimate.memory.elements import FP32
from vram_search.estimate.memory.loading import Loaded
from vram_search.spec.allocator_sizes import SMALL_SEGMENT


@dataclass
class Training:
    """A training on an allocator, from one of its requests on."""

    allocator: CachingAllocator
    remaining: list[Chunk]
    live: dict[int, Block] = field(default_factory=dict)
    """The blocks in use, by number."""

    def play(self) -> None:
        """Plays what remains; with `allocator.pauses` up to the request that meets the limit."""
        self.remaining = self.allocator.play(self.remaining, self.live)

    def with_growing_limit(self) -> CachingAllocator:
        """The allocator at the end of a copy's training, whose limit rises where it is too low."""
        allocator, live = self.allocator.copy(self.live)
        allocator.pauses, allocator.grows = False, True
        Training(allocator, self.remaining, live).play()
        return allocator


def replay(loaded: Loaded, events: LayerEvents, sizes: Sizes) -> CachingAllocator:
    """The allocator after two optimizer steps and an evaluation, from the loaded model on."""
    recorder = Recorder(len(events.sizes), sizes.layers)
    steps = Steps(recorder, events, sizes)
    steps.attach_adapter()
    steps.step(first=True)
    training = Training(_loaded_allocator(loaded, sizes), recorder.taken())
    training.play()
    if not _loss_fits_again(training.allocator, sizes):
        steps.step(first=False)
    if sizes.eval_tokens:
        steps.evaluation()
    training.remaining = recorder.taken()
    training.play()
    return training.allocator


def smallest_limit(
    loaded: Loaded, events: LayerEvents, sizes: Sizes, lengths: Sequence[float]
) -> CachingAllocator:
    """The allocator at the smallest limit under which the training completes.

    A request that fails raises the limit to what it needs, and the training is replayed under that
    limit until none fails, or until the limit is what a training without one reserves. As under a
    real limit, the cache is emptied before a request fails. A replay that never meets its limit is
    a training without one, and one that meets it reserves more than that without a limit.

    Up to the request that meets a limit, a training under a higher limit is the same. So it pauses
    there: a copy continues under the growing limit, and then it continues itself under the limit
    that was found.

    Args:
        lengths: tokens of each optimizer step as a share of the longest; an evaluation is after
            the first.
    """
    allocator = _loaded_allocator(loaded, sizes)
    allocator.limit, allocator.pauses = 0, True
    allocator.empty_cache()
    training = Training(allocator, _recorded(events, sizes, lengths))
    training.play()
    limit, found = training.with_growing_limit().limit, None
    while True:
        allocator.limit = limit
        training.play()
        if not training.remaining:
            if found is None:
                return allocator
            allocator.limit = allocator.peak_reserved
            return min(found, allocator, key=lambda allocator: allocator.limit)
        found = training.with_growing_limit()
        if found.limit == limit:
            return found
        limit = found.limit


def _recorded(events: LayerEvents, sizes: Sizes, lengths: Sequence[float]) -> list[Chunk]:
    """The requests of steps of these lengths."""
    recorder = Recorder(len(events.sizes), sizes.layers)
    of_share = {
        share: Steps(recorder, events, replace(sizes, tokens=round(share * sizes.tokens)))
        for share in set(lengths)
    }
    of_share[lengths[0]].attach_adapter()
    for number, share in enumerate(lengths):
        of_share[share].step(first=number == 0)
        if number == 0 and sizes.eval_tokens:
            of_share[share].evaluation()
    return recorder.taken()


def _loaded_allocator(loaded: Loaded, sizes: Sizes) -> CachingAllocator:
    """The allocator with the base model and the tensors of the small pool."""
    small, cached = (
        -(-size // SMALL_SEGMENT) * SMALL_SEGMENT
        for size in (sizes.small_bytes, sizes.small_cached_bytes)
    )
    gaps = (*loaded.gaps, *([Gap(cached, whole=True, small=True)] if cached else []))
    return CachingAllocator.resume(
        loaded.allocated_bytes + small, loaded.reserved_bytes + small + cached, gaps
    )


def _loss_fits_again(allocator: CachingAllocator, sizes: Sizes) -> bool:
    """The blocks of the first step's loss are whole: nothing that stays was cut from them."""
    if not sizes.has_logits or sizes.logit_bytes:
        return False
    return allocator.has_free((FP32 * sizes.vocab_size * sizes.tokens,) * 3 + (sizes.head_copy,))
