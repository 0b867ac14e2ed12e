"""The allocator's requests over a training, as `allocator` replays them.

Two optimizer steps and an evaluation, with `LAYERS` layers in full and what the others keep in
their place: a layer's requests repeat those of the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from vram_search.estimate.allocator import SMALL_REQUEST, Block, CachingAllocator
from vram_search.estimate.layer import BF16, FP32, LayerSetup, record_layer
from vram_search.estimate.tape import Bytes, Tape, Tensor

LAYERS = 2

Event = tuple[bool, int]
"""Request (True) or release of a tensor, by its index."""


@dataclass(frozen=True)
class LayerEvents:
    """Requests of one layer; index 0 is its input, 1 its output, 2 its output's gradient."""

    sizes: tuple[Bytes, ...]
    forward: tuple[Event, ...]
    """Without gradients."""
    forward_saving: tuple[Event, ...]
    backward: tuple[Event, ...]
    """Ends with the gradient of the input (index 3) alone."""


@lru_cache(maxsize=1024)
def layer_events(setup: LayerSetup) -> LayerEvents:
    """The requests of one decoder layer."""
    tape, hidden = record_layer(setup, input_requires_grad=True)
    return _Events(tape, hidden).layer()


class _Events:
    def __init__(self, tape: Tape, hidden: Tensor) -> None:
        self.tape, self.hidden = tape, hidden
        self.output = tape.operations[-1].output
        self.sizes: list[Bytes] = []
        self.index: dict[object, int] = {}
        for key, size in (
            (id(hidden), hidden.bytes),
            (id(self.output), self.output.bytes),
            (("gradient", id(self.output)), self.output.bytes),
            (("gradient", id(hidden)), hidden.bytes),
        ):
            self._number(key, size)

    def _number(self, key: object, size: Bytes) -> int:
        if key not in self.index:
            self.index[key] = len(self.sizes)
            self.sizes.append(size)
        return self.index[key]

    def layer(self) -> LayerEvents:
        forward = self._forward(saving=False)
        saving = self._forward(saving=True)
        backward = self._backward()
        return LayerEvents(tuple(self.sizes), forward, saving, backward)

    def _forward(self, *, saving: bool) -> tuple[Event, ...]:
        kept = {id(tensor) for tensor in self.tape.saved_tensors()} if saving else set()
        kept |= {id(tensor) for tensor in self.tape.leaks}
        kept |= {id(self.hidden), id(self.output)}
        last_use: dict[int, int] = {}
        for position, operation in enumerate(self.tape.operations):
            for tensor in operation.inputs:
                last_use[id(tensor)] = position
        made: set[int] = {id(self.hidden)}
        events: list[Event] = []
        for position, operation in enumerate(self.tape.operations):
            temporary = operation.forward_temporary
            if temporary != Bytes():
                key = self._number(("forward", position), temporary)
                events.append((True, key))
            output = id(operation.output)
            events.append((True, self._number(output, operation.output.bytes)))
            made.add(output)
            if temporary != Bytes():
                events.append((False, key))
            for tensor in operation.saves if saving else ():
                if id(tensor) not in made:  # made inside the operation: scales, copies of weights
                    events.append((True, self._number(id(tensor), tensor.bytes)))
                    made.add(id(tensor))
            for tensor in {id(t): t for t in operation.inputs}.values():
                if last_use[id(tensor)] == position and id(tensor) not in kept:
                    events.append((False, self._number(id(tensor), tensor.bytes)))
        return tuple(events)

    def _backward(self) -> tuple[Event, ...]:
        readers: dict[int, int] = {}
        for operation in self.tape.operations:
            for tensor in operation.saves:
                readers[id(tensor)] = readers.get(id(tensor), 0) + 1
        for leak in self.tape.leaks:
            readers.setdefault(id(leak), 0)
        gradients = {id(self.output)}
        events: list[Event] = []
        for position in reversed(range(len(self.tape.operations))):
            operation = self.tape.operations[position]
            if id(operation.output) not in gradients:
                continue
            temporary = operation.backward_temporary
            if temporary != Bytes():
                key = self._number(("backward", position), temporary)
                events.append((True, key))
            for tensor in operation.inputs:
                if not tensor.requires_grad:
                    continue
                name = self._number(("gradient", id(tensor)), tensor.bytes)
                if id(tensor) in gradients:  # added to the first, then freed
                    extra = self._number(("again", position, id(tensor)), tensor.bytes)
                    events += [(True, extra), (False, extra)]
                else:
                    events.append((True, name))
                    gradients.add(id(tensor))
            if temporary != Bytes():
                events.append((False, key))
            gradients.discard(id(operation.output))
            events.append((False, self.index["gradient", id(operation.output)]))
            for tensor in operation.saves:
                readers[id(tensor)] -= 1
                if not readers[id(tensor)] and tensor is not self.hidden:
                    events.append((False, self._number(id(tensor), tensor.bytes)))
        for leak in {id(t): t for t in self.tape.leaks}.values():
            if leak is not self.hidden and not any(leak in o.saves for o in self.tape.operations):
                events.append((False, self._number(id(leak), leak.bytes)))
        return tuple(events)


@dataclass(frozen=True)
class Sizes:
    """Bytes outside the layers, of one workload."""

    tokens: int
    layers: int
    stays: int
    """Base, upcasts, adapter and optimizer states, and what the small pool holds of LoRA's gradients
    and autocast's copies of its weights: the large pool never sees those."""
    workspaces: Sequence[int]
    large_gradients: int
    """LoRA's gradients that are in the large pool."""
    hidden_element: int
    hidden_size: int
    vocab_size: int
    head_copy: int
    softcap: bool
    checkpointing: bool
    fused_logits: int
    """One chunk of the fused loss; 0 where the loss is not fused."""
    eval_tokens: int


def replay(events: LayerEvents, sizes: Sizes, limit: float = float("inf")) -> CachingAllocator:
    """Replays a training.

    Raises:
        OutOfMemoryError: it does not complete below `limit`.
    """
    allocator = CachingAllocator(limit=limit)
    allocator.allocate(sizes.stays)
    run = _Replay(allocator, events, sizes)
    for step in range(2):
        run.step(first=step == 0)
    if sizes.eval_tokens:
        run.evaluation()
    return allocator


def _large(events: tuple[Event, ...], sizes: list[int]) -> list[Event]:
    """Without what goes to the small pool; a layer's input and output stay."""
    return [event for event in events if event[1] < 4 or sizes[event[1]] > SMALL_REQUEST]


class _Replay:
    def __init__(self, allocator: CachingAllocator, events: LayerEvents, sizes: Sizes) -> None:
        self.allocator, self.events, self.sizes = allocator, events, sizes
        self.bytes = [round(size.of(sizes.tokens)) for size in events.sizes]
        self.shown = min(LAYERS, sizes.layers)
        self.forward = _large(events.forward, self.bytes)
        self.forward_saving = _large(events.forward_saving, self.bytes)
        self.backward = _large(events.backward, self.bytes)

    def _play(self, events: list[Event], live: dict[int, Block], sizes: list[int]) -> None:
        allocate, free = self.allocator.allocate, self.allocator.free
        for request, index in events:
            if request:
                live[index] = allocate(sizes[index])
            elif index in live:
                free(live.pop(index))

    def step(self, *, first: bool) -> None:
        s, allocate, free = self.sizes, self.allocator.allocate, self.allocator.free
        hidden = self.bytes[0]
        stream = allocate(hidden)
        lives: list[dict[int, Block]] = []
        for number in range(self.shown):
            live = {0: stream}
            events = self.forward if s.checkpointing else self.forward_saving
            self._play(events, live, self.bytes)
            stream = live.pop(1)
            lives.append(live)
            if number == 0:
                if first:
                    for size in s.workspaces:
                        allocate(size)
                    self._others(live)
        normed = allocate(hidden)
        wide = allocate(FP32 * s.hidden_size * s.tokens) if s.hidden_element == BF16 else None
        gradient = self._loss(normed)
        if wide:
            free(wide)
        free(stream)
        for live in reversed(lives):
            if s.checkpointing:
                self._play(self.forward_saving, live, self.bytes)
                free(live.pop(1))
            live[2] = gradient
            self._play(self.backward, live, self.bytes)
            gradient = live.pop(3) if 3 in live else allocate(hidden)
            for block in live.values():
                free(block)
        free(gradient)
        if s.large_gradients:
            free(allocate(s.large_gradients))

    def _others(self, live: dict[int, Block]) -> None:
        """What the layers that are not played keep. It stays: its blocks serve nothing else, for
        the next step wants them again."""
        kept = self.bytes[0] + sum(block.size for index, block in live.items() if index != 0)
        more = self.sizes.layers - self.shown
        if more:
            self.allocator.allocate(more * kept)

    def _loss(self, normed: Block) -> Block:
        """Head and loss, forward and backward; returns the gradient of the last hidden state."""
        s, allocate, free = self.sizes, self.allocator.allocate, self.allocator.free
        entries = s.vocab_size * s.tokens
        head = allocate(s.head_copy) if s.head_copy else None
        if s.fused_logits:
            gradient = allocate(s.hidden_element * s.hidden_size * s.tokens)
            chunk = allocate(s.fused_logits)
            for block in (chunk, *([head] if head else []), normed):
                free(block)
            return gradient
        logits = allocate(BF16 * entries)
        free(normed)
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
        free(narrow)
        if head:
            free(head)
        return gradient

    def evaluation(self) -> None:
        s, allocate, free = self.sizes, self.allocator.allocate, self.allocator.free
        sizes = [round(size.of(s.eval_tokens)) for size in self.events.sizes]
        forward = _large(self.events.forward, sizes)
        stream = allocate(sizes[0])
        for _ in range(min(2, self.shown)):
            live = {0: stream}
            self._play(forward, live, sizes)
            stream = live.pop(1)
            for block in live.values():
                free(block)
        entries = s.vocab_size * s.eval_tokens
        head = allocate(s.head_copy) if s.head_copy else None
        logits = allocate(BF16 * entries)
        if head:
            free(head)
        wide = allocate(FP32 * entries)
        soft = allocate(FP32 * entries)
        for block in (soft, wide, logits, stream):
            free(block)
