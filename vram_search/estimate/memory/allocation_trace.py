"""The allocator's requests over a training, as `replay` plays them.

Optimizer steps and an evaluation. They have the forward pass of every layer, for what layers keep
settles in the gaps that the ones before have left. Of the backward passes they have the last and
the first layer's: those between repeat them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import count

from vram_search.estimate.memory.allocator import Chunk, SizedEvent
from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.events import Storage, forward_events, run_backward
from vram_search.estimate.memory.layer import LayerSetup, record_layer
from vram_search.estimate.memory.tape import Bytes
from vram_search.spec.allocator_sizes import SMALL_REQUEST, block_size

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


def _large(
    events: tuple[NumberedEvent, ...], sizes: list[int], shared: frozenset[int]
) -> list[NumberedEvent]:
    """Without storages of the small pool, unless one layer hands them to the next."""
    return [event for event in events if event[1] in shared or sizes[event[1]] > SMALL_REQUEST]


class Recorder:
    """Records requests and releases; each block has a number.

    The storages of layer n begin at the number n times `stride`. Its output has the last of its
    numbers, which is the first of the next layer, whose input it is.
    """

    def __init__(self, storages: int, layers: int) -> None:
        self.stride = storages - 1
        self._chunks: list[Chunk] = []
        self._single: list[SizedEvent] | None = None
        """The events of the last chunk, if they are of no layer."""
        self._numbers = count(layers * self.stride + 1)

    def taken(self) -> list[Chunk]:
        """Returns the events that were recorded since the last call."""
        chunks, self._chunks, self._single = self._chunks, [], None
        return chunks

    def allocate(self, size: int) -> int:
        """Records a request; returns the number of its block."""
        number = next(self._numbers)
        self._append((block_size(max(size, 1)), number))
        return number

    def free(self, number: int) -> None:
        """Records the release of a block."""
        self._append((0, number))

    def play(self, events: list[SizedEvent], layer: int) -> None:
        """Records events that have the numbers of the first layer, for another one."""
        self._chunks.append((events, layer * self.stride))
        self._single = None

    def number(self, index: int, layer: int = 0) -> int:
        """The number of a layer's storage."""
        place = {OUTPUT: self.stride, self.stride: OUTPUT}.get(index, index)
        return layer * self.stride + place

    def _append(self, event: SizedEvent) -> None:
        if self._single is None:
            self._single = []
            self._chunks.append((self._single, 0))
        self._single.append(event)


class Steps:
    """Records the requests of steps of one length."""

    def __init__(self, recorder: Recorder, events: LayerEvents, sizes: Sizes) -> None:
        self.recorder, self.events, self.sizes = recorder, events, sizes
        self.bytes = [block_size(round(size.of(sizes.tokens))) for size in events.sizes]
        self.forward = _large(events.forward, self.bytes, events.shared)
        self.forward_saving = _large(events.forward_saving, self.bytes, events.shared)
        self.backward = _large(events.backward, self.bytes, events.shared)
        kept = {INPUT: recorder.number(INPUT)}
        self.first = self._first_pass(kept)
        self.kept = tuple(kept)
        """Storages that are live between a layer's passes."""
        self.releases = [(0, number) for number in kept.values()]

    def _first_pass(self, live: dict[int, int]) -> list[SizedEvent]:
        """A layer's first forward pass. What it keeps is in `live` then, without the output."""
        found: list[SizedEvent] = []
        events = self.forward if self.sizes.checkpointing else self.forward_saving
        for is_request, index in events:
            number = self.recorder.number(index)
            if is_request:
                live[index] = number
                found.append((self.bytes[index], number))
            elif live.pop(index, None) is not None:
                found.append((0, number))
        del live[OUTPUT]
        return found

    def _play(self, events: list[NumberedEvent], live: dict[int, int], sizes: list[int]) -> None:
        allocate, free = self.recorder.allocate, self.recorder.free
        for is_request, index in events:
            if is_request:
                live[index] = allocate(sizes[index])
            elif index in live:
                free(live.pop(index))

    def attach_adapter(self) -> None:
        if self.sizes.large_adapter:
            for _ in range(self.sizes.layers):
                self.recorder.allocate(self.sizes.large_adapter)

    def step(self, *, first: bool) -> None:
        s, recorder = self.sizes, self.recorder
        allocate, free = recorder.allocate, recorder.free
        hidden = self.bytes[INPUT]
        recorder.play([(hidden, recorder.number(INPUT))], 0)
        if first:
            allocate(s.workspace)  # the rotary embedding's product is the first
        for layer in range(s.layers):
            recorder.play(self.first, layer)
        residual = recorder.number(INPUT, s.layers)
        normed = allocate(hidden)
        wide = allocate(FP32 * s.hidden_size * s.tokens) if s.hidden_element == BF16 else None
        gradient = self._loss(normed, first=first)
        if wide is not None:
            free(wide)
        free(residual)
        gradients = []
        for layer in reversed(range(s.layers)):
            live: dict[int, int] = {}
            if self._whole(layer):
                live = {index: recorder.number(index, layer) for index in self.kept}
                gradient = self._whole_backward(live, gradient)
            if s.large_adapter:
                gradients.append(allocate(s.large_adapter))
            if self._whole(layer):
                for number in live.values():
                    free(number)
            else:
                recorder.play(self.releases, layer)
        free(gradient)
        if s.large_states and first:
            for _ in range(s.layers):
                allocate(s.large_states)
        for number in gradients:
            free(number)

    def _whole(self, layer: int) -> bool:
        """True: a layer's whole backward pass is recorded. False: only its releases."""
        return layer in (0, self.sizes.layers - 1)

    def _whole_backward(self, live: dict[int, int], gradient: int) -> int:
        """A layer's backward pass; returns the gradient of its input."""
        if self.sizes.checkpointing:
            self._play(self.forward_saving, live, self.bytes)
            self.recorder.free(live.pop(OUTPUT))
        live[OUTPUT_GRADIENT] = gradient
        self._play(self.backward, live, self.bytes)
        return live.pop(self.events.input_gradient)

    def _loss(self, normed: int, *, first: bool) -> int:
        """Head and loss, forward and backward; returns the gradient of the last hidden state."""
        s, allocate, free = self.sizes, self.recorder.allocate, self.recorder.free
        entries = s.vocab_size * s.tokens
        head = allocate(s.head_copy) if s.head_copy else None
        if not s.has_logits:
            gradient = allocate(s.hidden_element * s.hidden_size * s.tokens)
            chunk = allocate(s.fused_logits)
            for block in (chunk, *([] if head is None else [head]), normed):
                free(block)
            if first:
                allocate(s.workspace)
            return gradient
        logits = self._logits(entries)
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
        if capped is not None:
            free(capped)
        gradient = allocate(s.hidden_element * s.hidden_size * s.tokens)
        if first:
            allocate(s.workspace)  # of autograd's thread, whose first product this is
        free(narrow)
        if head is not None:
            free(head)
        return gradient

    def _preference_loss(self, logits: int, entries: int, *, first: bool) -> int:
        """Logits of both models and their log-softmax in fp32, then the gradient's way back."""
        s, allocate, free = self.sizes, self.recorder.allocate, self.recorder.free
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

    def _logits(self, entries: int) -> int:
        logits = self.recorder.allocate(BF16 * entries)
        if not self.sizes.scaled_logits:
            return logits
        scaled = self.recorder.allocate(BF16 * entries)
        self.recorder.free(logits)
        return scaled

    def evaluation(self) -> None:
        s, allocate, free = self.sizes, self.recorder.allocate, self.recorder.free
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
        logits = self._logits(entries)
        if head is not None:
            free(head)
        in_fp32 = FP32 * s.vocab_size * s.eval_fp32_tokens
        copies = [allocate(in_fp32) for _ in range(s.eval_logit_bytes // FP32 or 2)]
        for block in (*reversed(copies), logits, residual):
            free(block)
