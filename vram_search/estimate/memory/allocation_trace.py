"""The allocator's requests over a training, as `allocator` replays them.

Two optimizer steps and an evaluation. The forward pass of every layer is played, for what layers
keep settles in the gaps that the ones before have left. Of the backward passes the last and the
first layer's are: those between repeat them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from vram_search.estimate.memory.allocator import Block, CachingAllocator, Gap
from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.events import Storage, forward_events, run_backward
from vram_search.estimate.memory.layer import LayerSetup, record_layer
from vram_search.estimate.memory.loading import Loaded
from vram_search.estimate.memory.tape import Bytes
from vram_search.spec.allocator_sizes import SMALL_REQUEST, SMALL_SEGMENT, block_size

NumberedEvent = tuple[bool, int]
"""Request (True) or release of a storage, by its index."""
INPUT, OUTPUT, OUTPUT_GRADIENT = 0, 1, 2
"""Indices of storages that one layer hands to the next."""


@dataclass(frozen=True)
class LayerEvents:
    """Requests and releases of one layer."""

    sizes: tuple[Bytes, ...]
    """By index."""
    forward: tuple[NumberedEvent, ...]
    """Without gradients."""
    forward_saving: tuple[NumberedEvent, ...]
    backward: tuple[NumberedEvent, ...]
    """Starts with the output's gradient, which is requested before, and ends with the input's."""
    input_gradient: int
    """Index of the input's gradient; the output's, where gradients are added up in place."""

    @property
    def shared(self) -> frozenset[int]:
        """Storages that one layer hands to the next."""
        return frozenset({INPUT, OUTPUT, OUTPUT_GRADIENT, self.input_gradient})


@lru_cache(maxsize=1024)
def layer_events(setup: LayerSetup) -> LayerEvents:
    """The requests and releases of one decoder layer."""
    tape, hidden = record_layer(setup, input_requires_grad=True)
    forward = forward_events(tape, hidden, saving=False)
    saving = forward_events(tape, hidden, saving=True)
    backward = run_backward(tape, hidden)
    index: dict[int, int] = {}
    sizes: list[Bytes] = []

    def number(storage: Storage) -> int:
        if id(storage) not in index:
            index[id(storage)] = len(sizes)
            sizes.append(storage.bytes)
        return index[id(storage)]

    for storage in (hidden, tape.operations[-1].output, backward.first):
        number(storage)
    numbered = [
        tuple((is_request, number(storage)) for is_request, storage in events)
        for events in (forward, saving, backward.events[1:])
    ]
    input_gradient = number(backward.gradients[id(hidden)])
    return LayerEvents(tuple(sizes), numbered[0], numbered[1], numbered[2], input_gradient)


@dataclass(frozen=True)
class Sizes:
    """Bytes outside the layers, of one workload."""

    tokens: int
    layers: int
    small_bytes: int
    """Bytes in the small pool besides the base: adapter and states."""
    small_cached_bytes: int
    """Bytes in it at times: gradients, and autocast's copies."""
    large_adapter: int
    """Bytes of one layer's adapter tensors in the large pool; its gradients take the same."""
    large_states: int
    """Bytes of one layer's optimizer states in the large pool."""
    workspace: int
    """Bytes of a cuBLAS workspace; two threads have one each."""
    hidden_element: int
    hidden_size: int
    vocab_size: int
    head_copy: int
    softcap: bool
    scaled_logits: bool
    """The logits are divided before the loss (Granite)."""
    checkpointing: bool
    fused_logits: int
    """One chunk of the fused loss; 0 where the loss is not fused or has no logits."""
    has_logits: bool
    """The logits of all tokens are held at once."""
    eval_tokens: int
    eval_fp32_tokens: int
    logit_bytes: int = 0
    """Bytes of a logit at the peak of a preference loss; 0 for cross entropy."""
    eval_logit_bytes: int = 0


def replay(loaded: Loaded, events: LayerEvents, sizes: Sizes) -> CachingAllocator:
    """The allocator after two optimizer steps and an evaluation, from the loaded model on."""
    allocator = _loaded_allocator(loaded, sizes)
    _attach_adapter(allocator, sizes)
    run = _Replay(events, sizes)
    run.allocator = allocator
    run.step(first=True)
    if not run.loss_fits_again():
        run.step(first=False)
    if sizes.eval_tokens:
        run.evaluation()
    return allocator


def smallest_limit(
    loaded: Loaded, events: LayerEvents, sizes: Sizes, lengths: Sequence[float]
) -> CachingAllocator:
    """The allocator at the smallest limit under which the training completes.

    A request that fails raises the limit to what it needs, and the training is replayed under that
    limit until none fails, or until the limit is what a training without one reserves. As under a
    real limit, the cache is emptied before a request fails. A replay that never meets its limit is
    a training without one, and one that meets it reserves more than that without a limit.

    Args:
        lengths: tokens of each optimizer step as a share of the longest; an evaluation is after
            the first.
    """

    of_share = {
        share: _Replay(events, replace(sizes, tokens=round(share * sizes.tokens)))
        for share in set(lengths)
    }

    def at(limit: float) -> CachingAllocator:
        allocator = _loaded_allocator(loaded, sizes)
        allocator.limit, allocator.grows = limit, True
        allocator.empty_cache()
        _attach_adapter(allocator, sizes)
        for number, share in enumerate(lengths):
            run = of_share[share]
            run.allocator = allocator
            run.step(first=number == 0)
            if number == 0 and sizes.eval_tokens:
                run.evaluation()
        return allocator

    limit = at(0).limit
    found = at(limit)
    while found.limit > limit:
        limit = found.limit
        following = at(limit)
        if not following.met_limit:
            following.limit = following.peak_reserved
            return min(found, following, key=lambda allocator: allocator.limit)
        found = following
    return found


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


def _attach_adapter(allocator: CachingAllocator, sizes: Sizes) -> None:
    if sizes.large_adapter:
        for _ in range(sizes.layers):
            allocator.allocate(sizes.large_adapter)


def _large(
    events: tuple[NumberedEvent, ...], sizes: list[int], shared: frozenset[int]
) -> list[NumberedEvent]:
    """Without storages of the small pool, unless one layer hands them to the next."""
    return [event for event in events if event[1] in shared or sizes[event[1]] > SMALL_REQUEST]


class _Replay:
    """The requests of steps of one length, made of `allocator`."""

    allocator: CachingAllocator

    def __init__(self, events: LayerEvents, sizes: Sizes) -> None:
        self.events, self.sizes = events, sizes
        self.bytes = [block_size(round(size.of(sizes.tokens))) for size in events.sizes]
        self.forward = _large(events.forward, self.bytes, events.shared)
        self.forward_saving = _large(events.forward_saving, self.bytes, events.shared)
        self.backward = _large(events.backward, self.bytes, events.shared)
        self.first = self.forward if sizes.checkpointing else self.forward_saving

    def _play(self, events: list[NumberedEvent], live: dict[int, Block], sizes: list[int]) -> None:
        allocate, free = self.allocator.allocate, self.allocator.free
        for request, index in events:
            if request:
                live[index] = allocate(sizes[index])
            elif index in live:
                free(live.pop(index))

    def step(self, *, first: bool) -> None:
        s, allocate, free = self.sizes, self.allocator.allocate, self.allocator.free
        hidden = self.bytes[INPUT]
        residual = allocate(hidden)
        if first:
            allocate(s.workspace)  # the rotary embedding's product is the first
        lives: list[dict[int, Block]] = []
        for _ in range(s.layers):
            live = {INPUT: residual}
            self._play(self.first, live, self.bytes)
            residual = live.pop(OUTPUT)
            lives.append(live)
        normed = allocate(hidden)
        wide = allocate(FP32 * s.hidden_size * s.tokens) if s.hidden_element == BF16 else None
        gradient = self._loss(normed, first=first)
        if wide:
            free(wide)
        free(residual)
        gradients = []
        for number in reversed(range(s.layers)):
            live = lives[number]
            if self._whole(number):
                if s.checkpointing:
                    self._play(self.forward_saving, live, self.bytes)
                    free(live.pop(OUTPUT))
                live[OUTPUT_GRADIENT] = gradient
                self._play(self.backward, live, self.bytes)
                gradient = live.pop(self.events.input_gradient)
            if s.large_adapter:
                gradients.append(allocate(s.large_adapter))
            for block in live.values():
                free(block)
        free(gradient)
        if s.large_states and first:
            for _ in range(s.layers):
                allocate(s.large_states)
        for block in gradients:
            free(block)

    def _whole(self, number: int) -> bool:
        """True: a layer's whole backward pass is replayed. False: only its releases."""
        return number in (0, self.sizes.layers - 1)

    def _loss(self, normed: Block, *, first: bool) -> Block:
        """Head and loss, forward and backward; returns the gradient of the last hidden state."""
        s, allocate, free = self.sizes, self.allocator.allocate, self.allocator.free
        entries = s.vocab_size * s.tokens
        head = allocate(s.head_copy) if s.head_copy else None
        if not s.has_logits:
            gradient = allocate(s.hidden_element * s.hidden_size * s.tokens)
            chunk = allocate(s.fused_logits)
            for block in (chunk, *([head] if head else []), normed):
                free(block)
            if first:
                allocate(s.workspace)
            return gradient
        logits = self._scaled(allocate(BF16 * entries))
        free(normed)
        if s.logit_bytes:
            return self._preference_loss(logits, entries, first=first)
        capped = allocate(BF16 * entries) if s.softcap else None
        wide = allocate(FP32 * entries)
        soft = allocate(FP32 * entries)
        free(wide)
        converted = allocate(FP32 * entries)  # accelerate's `ConvertOutputsToFp32`
        free(logits)
        free(converted)
        upper = allocate(FP32 * entries)
        lower = allocate(FP32 * entries)
        free(upper)
        free(soft)
        narrow = allocate(BF16 * entries)
        free(lower)
        if capped:
            free(capped)
        gradient = allocate(s.hidden_element * s.hidden_size * s.tokens)
        if first:
            allocate(s.workspace)  # of autograd's thread, whose first product this is
        free(narrow)
        if head:
            free(head)
        return gradient

    def _preference_loss(self, logits: Block, entries: int, *, first: bool) -> Block:
        """Logits of both models and their log-softmax in fp32, then the gradient's way back."""
        s, allocate, free = self.sizes, self.allocator.allocate, self.allocator.free
        wide = [allocate(FP32 * entries)]
        free(logits)
        wide += [allocate(FP32 * entries) for _ in range(s.logit_bytes // FP32 - 1)]
        for block in wide[:-2]:
            free(block)
        narrow = allocate(BF16 * entries)
        for block in wide[-2:]:
            free(block)
        gradient = allocate(s.hidden_element * s.hidden_size * s.tokens)
        if first:
            allocate(s.workspace)
        free(narrow)
        return gradient

    def loss_fits_again(self) -> bool:
        """The blocks of the first step's loss are whole: nothing that stays was cut from them."""
        s = self.sizes
        if not s.has_logits or s.logit_bytes:
            return False
        return self.allocator.has_free((FP32 * s.vocab_size * s.tokens,) * 3 + (s.head_copy,))

    def _scaled(self, logits: Block) -> Block:
        if not self.sizes.scaled_logits:
            return logits
        scaled = self.allocator.allocate(logits.size)
        self.allocator.free(logits)
        return scaled

    def evaluation(self) -> None:
        s, allocate, free = self.sizes, self.allocator.allocate, self.allocator.free
        sizes = [round(size.of(s.eval_tokens)) for size in self.events.sizes]
        forward = _large(self.events.forward, sizes, self.events.shared)
        residual = allocate(sizes[INPUT])
        for _ in range(min(2, s.layers)):
            live = {INPUT: residual}
            self._play(forward, live, sizes)
            residual = live.pop(OUTPUT)
            for block in live.values():
                free(block)
        entries = s.vocab_size * s.eval_tokens
        head = allocate(s.head_copy) if s.head_copy else None
        logits = self._scaled(allocate(BF16 * entries))
        if head:
            free(head)
        in_fp32 = FP32 * s.vocab_size * s.eval_fp32_tokens
        copies = [allocate(in_fp32) for _ in range(s.eval_logit_bytes // FP32 or 2)]
        for block in (*reversed(copies), logits, residual):
            free(block)
