"""Requests and releases of memory in the forward and the backward pass of a tape.

This is the only model of autograd's bookkeeping. `live_bytes` reads the events for the allocated
peak, and `allocation_trace` replays them on the allocator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from vram_search.estimate.memory.elements import FP32
from vram_search.estimate.memory.tape import NOTHING, Bytes, Operation, Tape, Tensor


@dataclass(eq=False)
class Buffer:
    """A storage that is no tensor of the forward pass: a gradient or a temporary one."""

    bytes: Bytes
    is_temporary: bool = False
    """Needed by one operation only."""


Storage = Tensor | Buffer


class Event(NamedTuple):
    """A request for the bytes of a storage, or their release."""

    is_request: bool
    storage: Storage


@dataclass(frozen=True)
class LiveBytes:
    """Bytes that are live after a request."""

    live: Bytes
    temporary: Bytes = NOTHING
    """Needed by one operation only, in addition to `live`."""

    @property
    def total(self) -> Bytes:
        return self.live + self.temporary


def live_bytes(events: Iterable[Event], start: Bytes = NOTHING) -> list[LiveBytes]:
    """Live bytes after each request, `start` included."""
    live, temporary = start, NOTHING
    found = []
    for is_request, storage in events:
        change = storage.bytes if is_request else NOTHING - storage.bytes
        if isinstance(storage, Buffer) and storage.is_temporary:
            temporary += change
        else:
            live += change
        if is_request:
            found.append(LiveBytes(live, temporary))
    return found


def forward_events(
    tape: Tape, hidden: Tensor, *, saving: bool, operations: int | None = None
) -> list[Event]:
    """Events of the forward pass.

    Args:
        hidden: the input, which exists before and stays.
        saving: the operations save tensors for the backward pass. `tape.leaks` stay in any case.
        operations: how many of them run; None for all.
    """
    kept = {id(tensor) for tensor in (tape.saved_tensors() if saving else tape.leaks)}
    kept.add(id(hidden))
    last_use = {
        id(tensor): position
        for position, operation in enumerate(tape.operations)
        for tensor in operation.last_used
    }
    made = {id(hidden)}
    events: list[Event] = []
    for position, operation in enumerate(tape.operations[:operations]):
        temporaries = [Buffer(size, is_temporary=True) for size in operation.forward_temporaries]
        events += [Event(True, buffer) for buffer in temporaries]
        events.append(Event(True, operation.output))
        made.add(id(operation.output))
        events += [Event(False, buffer) for buffer in temporaries]
        for tensor in operation.saves if saving else ():
            if id(tensor) not in made:  # made inside the operation: scales, copies of weights
                events.append(Event(True, tensor))
                made.add(id(tensor))
        events += [
            Event(False, tensor)
            for tensor in operation.last_used
            if last_use[id(tensor)] == position and id(tensor) not in kept
        ]
    return events


def recompute_events(tape: Tape, hidden: Tensor) -> tuple[Bytes, list[Event]]:
    """Events of a checkpointed layer's second forward pass, and bytes of the gradients meanwhile.

    It begins where the backward pass first asks for a saved tensor, and ends with the last tensor
    that is saved (torch `utils/checkpoint.py`, `_CheckpointFrame`, early stop).
    """
    backward = Backward(tape, hidden)
    for operation in backward.operations():
        if operation.saves:
            break
        backward.run(operation)
    last = max((i for i, o in enumerate(tape.operations) if o.saves), default=-1)
    events = forward_events(tape, hidden, saving=True, operations=last + 1)
    return backward.live_gradients, events


class Backward:
    """The backward pass, operation by operation, from the gradient of the last output on.

    The gradient of an input has the dtype of the input. A storage is freed with its last reader. A
    second gradient of the same tensor is added to the first: into a third one in 16 bits, in place
    in 32 (measured on an H200; torch `csrc/autograd/input_buffer.cpp`, `can_accumulate_inplace`).
    """

    def __init__(self, tape: Tape, hidden: Tensor) -> None:
        self.tape, self.hidden = tape, hidden
        output = tape.operations[-1].output
        self.first: Storage = Buffer(output.bytes)
        self.events = [Event(True, self.first)]
        self.gradients: dict[int, Storage] = {id(output): self.first}
        """Live gradients, by the id of their tensor."""
        self._owners = Counter({id(self.first): 1})
        for operation in tape.operations:
            self._owners.update(id(tensor) for tensor in operation.saves)

    @property
    def live_gradients(self) -> Bytes:
        """Bytes of the live gradients; several that share a storage count once."""
        storages = {id(storage): storage for storage in self.gradients.values()}
        return sum((storage.bytes for storage in storages.values()), NOTHING)

    def operations(self) -> Iterator[Operation]:
        """Operations whose outputs have a gradient, the last first; `run` has to follow each."""
        for operation in reversed(self.tape.operations):
            if id(operation.output) in self.gradients:
                yield operation

    def run(self, operation: Operation) -> None:
        """Gives the inputs their gradients, and releases what no other operation needs."""
        temporary = Buffer(operation.backward_temporary, is_temporary=True)
        if temporary.bytes != NOTHING:
            self.events.append(Event(True, temporary))
        own = self.gradients.pop(id(operation.output))
        found = self._new_gradients(operation, own)
        if temporary.bytes != NOTHING:
            self.events.append(Event(False, temporary))
        self._release(own)
        for tensor in operation.saves:
            self._release(tensor)
        for tensor, storage in found:
            self._accumulate(tensor, storage)

    def _new_gradients(self, operation: Operation, own: Storage) -> list[tuple[Tensor, Storage]]:
        found: list[tuple[Tensor, Storage]] = []
        overwritten = {id(t) for t in operation.saves} if operation.in_place else set()
        for tensor in operation.inputs:
            if not tensor.requires_grad:
                continue
            storage: Storage
            if operation.passes_gradient and tensor.element_bytes == operation.output.element_bytes:
                storage = own
            elif id(tensor) in overwritten:
                storage = tensor
                overwritten.remove(id(tensor))
            else:
                storage = Buffer(tensor.bytes)
                self.events.append(Event(True, storage))
            self._owners[id(storage)] += 1
            found.append((tensor, storage))
        return found

    def _accumulate(self, tensor: Tensor, storage: Storage) -> None:
        earlier = self.gradients.get(id(tensor))
        if earlier is None:
            self.gradients[id(tensor)] = storage
            return
        if tensor.element_bytes == FP32:
            self._release(storage)
            return
        total = Buffer(tensor.bytes)
        self.events.append(Event(True, total))
        self._owners[id(total)] += 1
        self.gradients[id(tensor)] = total
        self._release(earlier)
        self._release(storage)

    def _release(self, storage: Storage) -> None:
        self._owners[id(storage)] -= 1
        if not self._owners[id(storage)] and storage is not self.hidden:
            self.events.append(Event(False, storage))

    def release_leaks(self) -> None:
        """Releases `tape.leaks` that no operation has saved."""
        saved = {id(tensor) for operation in self.tape.operations for tensor in operation.saves}
        leaks = {id(tensor): tensor for tensor in self.tape.leaks if id(tensor) not in saved}
        self.events += [Event(False, leak) for leak in leaks.values() if leak is not self.hidden]


def run_backward(tape: Tape, hidden: Tensor) -> Backward:
    """The whole backward pass. At its end the input's gradient alone is left."""
    backward = Backward(tape, hidden)
    for operation in backward.operations():
        backward.run(operation)
    backward.release_leaks()
    return backward
