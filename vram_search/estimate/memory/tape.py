"""Which bytes live when: autograd's bookkeeping over symbolic tensors. No torch.

A tensor's bytes are `per_token * tokens + constant`. A `Tape` records operations with what each
saves for its backward pass (only where an input requires a gradient, as torch's engine does), and
answers two questions: what is saved after the forward pass, and how high the backward pass goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

FP32 = 4


@dataclass(frozen=True)
class Bytes:
    """`per_token * tokens + constant`."""

    per_token: float = 0.0
    constant: float = 0.0

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.per_token + other.per_token, self.constant + other.constant)

    def __sub__(self, other: Bytes) -> Bytes:
        return Bytes(self.per_token - other.per_token, self.constant - other.constant)

    def of(self, tokens: float) -> float:
        return self.per_token * tokens + self.constant


NOTHING = Bytes()


@dataclass(frozen=True)
class LiveBytes:
    """What is live at one operation."""

    live: Bytes
    temporary: Bytes = NOTHING
    """What the operation itself needs on top."""

    @property
    def total(self) -> Bytes:
        return self.live + self.temporary


@dataclass(eq=False)
class Tensor:
    """A storage: views of it are the same object."""

    features: float
    """Elements per token."""
    element_bytes: int
    requires_grad: bool = False
    constant: float = 0.0

    @property
    def bytes(self) -> Bytes:
        return Bytes(self.features * self.element_bytes, self.constant)


@dataclass(eq=False)
class Operation:
    inputs: tuple[Tensor, ...]
    output: Tensor
    saves: tuple[Tensor, ...]
    backward_temporary: Bytes
    forward_temporaries: tuple[Bytes, ...]
    in_place: bool
    """Backward writes the inputs' gradients over what was saved."""
    holds: tuple[Tensor, ...]
    """What Python's frames keep until this operation has run."""
    passes_gradient: bool
    """The output's gradient becomes that of each input of the same element size, as it is."""

    @property
    def last_used(self) -> tuple[Tensor, ...]:
        """Inputs and what is held, each once."""
        return tuple({id(tensor): tensor for tensor in (*self.inputs, *self.holds)}.values())


@dataclass
class Tape:
    """Operations in the order in which they run."""

    operations: list[Operation] = field(default_factory=list)
    leaks: list[Tensor] = field(default_factory=list)
    """What stays alive between forward and backward although nothing is saved for it."""

    def run(
        self,
        inputs: tuple[Tensor, ...],
        features: float,
        element_bytes: int,
        *,
        saves: tuple[Tensor, ...] = (),
        saves_output: bool = False,
        trains: bool = False,
        forward_temporaries: tuple[Bytes, ...] = (),
        backward_temporary: Bytes = NOTHING,
        in_place: bool = False,
        holds: tuple[Tensor, ...] = (),
        passes_gradient: bool = False,
    ) -> Tensor:
        """Appends an operation; `trains` where it has weights that require gradients."""
        requires_grad = trains or any(tensor.requires_grad for tensor in inputs)
        output = Tensor(features, element_bytes, requires_grad)
        kept = (*saves, output) if saves_output else saves
        if not requires_grad:
            kept = ()
        self.operations.append(
            Operation(
                inputs,
                output,
                kept,
                backward_temporary,
                forward_temporaries,
                in_place,
                holds,
                passes_gradient,
            )
        )
        return output

    def saved_tensors(self) -> list[Tensor]:
        """Storages that the backward pass needs, each once."""
        found: dict[int, Tensor] = {id(tensor): tensor for tensor in self.leaks}
        for operation in self.operations:
            found.update((id(tensor), tensor) for tensor in operation.saves)
        return list(found.values())

    def saved(self, *, without: Tensor) -> tuple[Bytes, ...]:
        """Bytes of each of `saved_tensors`, but for `without`."""
        return tuple(tensor.bytes for tensor in self.saved_tensors() if tensor is not without)

    def backward_moments(self, *, without: Tensor) -> list[LiveBytes]:
        """Live bytes at each operation of the backward pass: saved tensors and gradients.

        The gradient of an input has the dtype of the input. A storage is freed with its last
        reader. A second gradient of the same tensor is added to the first: into a third one in 16
        bits, in place in 32 (measured on an H200; torch `csrc/autograd/input_buffer.cpp`,
        `can_accumulate_inplace`).
        """
        readers: dict[int, int] = {}
        for operation in self.operations:
            for tensor in operation.saves:
                readers[id(tensor)] = readers.get(id(tensor), 0) + 1
        live = sum(self.saved(without=without), NOTHING)
        gradients = Gradients(self.operations)
        moments = [LiveBytes(live + gradients.live)]
        for operation in gradients.backward():
            new = gradients.new_bytes(operation)
            moments.append(LiveBytes(live + gradients.live + new, operation.backward_temporary))
            highest = gradients.step(operation)
            for tensor in operation.saves:
                readers[id(tensor)] -= 1
                if not readers[id(tensor)] and tensor is not without:
                    live -= tensor.bytes
            moments.append(LiveBytes(live + highest))
        return moments

    def recompute_moments(self) -> list[LiveBytes]:
        """Live bytes at each operation of a checkpointed layer's second forward pass.

        It begins where the backward pass first asks for a saved tensor, with the gradients that
        are there by then, and ends with the last tensor that is saved (torch `utils/checkpoint.py`,
        `_CheckpointFrame`, early stop).
        """
        gradients = Gradients(self.operations)
        for operation in gradients.backward():
            if operation.saves:
                break
            gradients.step(operation)
        last = max((i for i, o in enumerate(self.operations) if o.saves), default=-1)
        return [
            LiveBytes(moment.live + gradients.live, moment.temporary)
            for moment in self.forward_moments()[: last + 1]
        ]

    def forward_moments(self) -> list[LiveBytes]:
        """Live bytes at each operation of a forward pass whose gradients are wanted."""
        kept = {id(tensor) for tensor in self.saved_tensors()}
        last_use: dict[int, int] = {}
        for index, operation in enumerate(self.operations):
            for tensor in operation.last_used:
                last_use[id(tensor)] = index
        live = NOTHING
        moments = []
        made: set[int] = set()
        for index, operation in enumerate(self.operations):
            made.add(id(operation.output))
            live += operation.output.bytes
            moments.append(LiveBytes(live, sum(operation.forward_temporaries, NOTHING)))
            for tensor in {id(t): t for t in operation.saves}.values():
                if id(tensor) not in made and id(tensor) not in last_use:
                    made.add(id(tensor))
                    live += tensor.bytes
            for tensor in operation.last_used:
                name = id(tensor)
                if last_use[name] == index and name in made and name not in kept:
                    live -= tensor.bytes
        return moments


@dataclass(eq=False)
class Storage:
    """Of one gradient, or of several that are the same."""

    bytes: Bytes
    owners: int = 0


class Gradients:
    """The gradients that are live in a backward pass; at first the last output's."""

    def __init__(self, operations: list[Operation]) -> None:
        self.operations = operations
        self.live = NOTHING
        self._of: dict[int, Storage] = {}
        if operations:
            last = operations[-1].output
            self._give(last, Storage(last.bytes))

    def backward(self) -> Iterator[Operation]:
        """The operations whose outputs have a gradient, last first; `step` is to follow each."""
        for operation in reversed(self.operations):
            if id(operation.output) in self._of:
                yield operation

    def new_bytes(self, operation: Operation) -> Bytes:
        """What the operation's backward pass allocates for gradients."""
        inputs = [] if operation.in_place else operation.inputs
        return sum(
            (t.bytes for t in inputs if t.requires_grad and not _passes(operation, t)), NOTHING
        )

    def step(self, operation: Operation) -> Bytes:
        """Gives the inputs their gradients; the highest of `live` while they are added up."""
        own = self._of[id(operation.output)]
        found = [
            (tensor, own if _passes(operation, tensor) else Storage(tensor.bytes))
            for tensor in operation.inputs
            if tensor.requires_grad
        ]
        for _, storage in found:
            self._hold(storage)
        self._release(self._of.pop(id(operation.output)))
        highest = self.live
        for tensor, storage in found:
            if (earlier := self._of.get(id(tensor))) is None:
                self._of[id(tensor)] = storage
                continue
            if tensor.element_bytes == FP32:
                self._release(storage)
                continue
            self._give(tensor, Storage(tensor.bytes))
            highest = max(highest, self.live, key=lambda size: size.per_token)
            self._release(earlier)
            self._release(storage)
        return highest

    def _give(self, tensor: Tensor, storage: Storage) -> None:
        self._of[id(tensor)] = storage
        self._hold(storage)

    def _hold(self, storage: Storage) -> None:
        if not storage.owners:
            self.live += storage.bytes
        storage.owners += 1

    def _release(self, storage: Storage) -> None:
        storage.owners -= 1
        if not storage.owners:
            self.live -= storage.bytes


def _passes(operation: Operation, tensor: Tensor) -> bool:
    same = tensor.element_bytes == operation.output.element_bytes
    return operation.passes_gradient and same
