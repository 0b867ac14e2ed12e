"""The allocator's requests over a training, as `allocator` replays them.

Two optimizer steps and an evaluation. The forward pass of every layer is played, for what layers
keep settles in the gaps that the ones before have left. Of the backward passes the last and the
first layer's are: those between repeat them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vram_search.estimate.memory.allocator import (
    SMALL_REQUEST,
    SMALL_SEGMENT,
    Block,
    CachingAllocator,
    Gap,
)
from vram_search.estimate.memory.layer import BF16, FP32, LayerSetup, record_layer
from vram_search.estimate.memory.loading import Loaded
from vram_search.estimate.memory.tape import Bytes, Tape, Tensor

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
            for tensor in operation.last_used:
                last_use[id(tensor)] = position
        made: set[int] = {id(self.hidden)}
        events: list[Event] = []
        for position, operation in enumerate(self.tape.operations):
            temporaries = [
                self._number(("forward", position, number), size)
                for number, size in enumerate(operation.forward_temporaries)
            ]
            events += [(True, key) for key in temporaries]
            output = id(operation.output)
            events.append((True, self._number(output, operation.output.bytes)))
            made.add(output)
            events += [(False, key) for key in temporaries]
            for tensor in operation.saves if saving else ():
                if id(tensor) not in made:  # made inside the operation: scales, copies of weights
                    events.append((True, self._number(id(tensor), tensor.bytes)))
                    made.add(id(tensor))
            for tensor in operation.last_used:
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
    small_bytes: int
    """What the small pool holds on top of the base: adapter and states."""
    small_cached_bytes: int
    """What it holds at times: gradients, and autocast's copies."""
    large_adapter: int
    """Of one layer: the adapter's tensors that are in the large pool; its gradients too."""
    large_states: int
    """Of one layer: the optimizer's."""
    workspace: int
    """Of cuBLAS, one for each of two threads."""
    hidden_element: int
    hidden_size: int
    vocab_size: int
    head_copy: int
    softcap: bool
    scaled_logits: bool
    """The logits are divided before the loss (Granite)."""
    checkpointing: bool
    fused_logits: int
    """One chunk of the fused loss; 0 where the loss is not fused."""
    eval_tokens: int
    eval_fp32_tokens: int


def replay(loaded: Loaded, events: LayerEvents, sizes: Sizes) -> CachingAllocator:
    """The allocator after two optimizer steps and an evaluation, from the loaded model on."""
    small, cached = (
        -(-size // SMALL_SEGMENT) * SMALL_SEGMENT
        for size in (sizes.small_bytes, sizes.small_cached_bytes)
    )
    gaps = (*loaded.gaps, *([Gap(cached, whole=True, small=True)] if cached else []))
    allocator = CachingAllocator.resume(
        loaded.allocated_bytes + small, loaded.reserved_bytes + small + cached, gaps
    )
    if sizes.large_adapter:
        for _ in range(sizes.layers):
            allocator.allocate(sizes.large_adapter)
    run = _Replay(allocator, events, sizes)
    run.step(first=True)
    if not run.loss_fits_again():
        run.step(first=False)
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
        self.forward = _large(events.forward, self.bytes)
        self.forward_saving = _large(events.forward_saving, self.bytes)
        self.backward = _large(events.backward, self.bytes)
        self.first = self.forward if sizes.checkpointing else self.forward_saving

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
        if first:
            allocate(s.workspace)  # the rotary embedding's product is the first
        lives: list[dict[int, Block]] = []
        for _ in range(s.layers):
            live = {0: stream}
            self._play(self.first, live, self.bytes)
            stream = live.pop(1)
            lives.append(live)
        normed = allocate(hidden)
        wide = allocate(FP32 * s.hidden_size * s.tokens) if s.hidden_element == BF16 else None
        gradient = self._loss(normed, first=first)
        if wide:
            free(wide)
        free(stream)
        gradients = []
        for number in reversed(range(s.layers)):
            live = lives[number]
            if self._whole(number):
                if s.checkpointing:
                    self._play(self.forward_saving, live, self.bytes)
                    free(live.pop(1))
                live[2] = gradient
                self._play(self.backward, live, self.bytes)
                gradient = live.pop(3) if 3 in live else allocate(hidden)
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
        """Whether a layer's backward pass is played, or only what it releases."""
        return number in (0, self.sizes.layers - 1)

    def _loss(self, normed: Block, *, first: bool) -> Block:
        """Head and loss, forward and backward; returns the gradient of the last hidden state."""
        s, allocate, free = self.sizes, self.allocator.allocate, self.allocator.free
        entries = s.vocab_size * s.tokens
        head = allocate(s.head_copy) if s.head_copy else None
        if s.fused_logits:
            gradient = allocate(s.hidden_element * s.hidden_size * s.tokens)
            chunk = allocate(s.fused_logits)
            for block in (chunk, *([head] if head else []), normed):
                free(block)
            if first:
                allocate(s.workspace)
            return gradient
        logits = self._scaled(allocate(BF16 * entries))
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
        if first:
            allocate(s.workspace)  # of autograd's thread, whose first product this is
        free(narrow)
        if head:
            free(head)
        return gradient

    def loss_fits_again(self) -> bool:
        """The blocks of the first step's loss are whole: nothing that stays was cut from them."""
        s = self.sizes
        if s.fused_logits:
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
        forward = _large(self.events.forward, sizes)
        stream = allocate(sizes[0])
        for _ in range(min(2, s.layers)):
            live = {0: stream}
            self._play(forward, live, sizes)
            stream = live.pop(1)
            for block in live.values():
                free(block)
        entries = s.vocab_size * s.eval_tokens
        head = allocate(s.head_copy) if s.head_copy else None
        logits = self._scaled(allocate(BF16 * entries))
        if head:
            free(head)
        in_fp32 = FP32 * s.vocab_size * s.eval_fp32_tokens
        wide, soft = allocate(in_fp32), allocate(in_fp32)
        for block in (soft, wide, logits, stream):
            free(block)
