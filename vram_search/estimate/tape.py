"""Which bytes live when: autograd's bookkeeping over symbolic tensors. No torch.

A tensor's bytes are `per_token * tokens + constant`. A `Tape` records operations with what each
saves for its backward pass (only where an input requires a gradient, as torch's engine does), and
answers two questions: what is saved after the forward pass, and how high the backward pass goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field


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
class Moment:
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
    ) -> Tensor:
        """Appends an operation; `trains` where it has weights that require gradients."""
        requires_grad = trains or any(tensor.requires_grad for tensor in inputs)
        output = Tensor(features, element_bytes, requires_grad)
        kept = (*saves, output) if saves_output else saves
        if not requires_grad:
            kept = ()
        self.operations.append(
            Operation(
                inputs, output, kept, backward_temporary, forward_temporaries, in_place, holds
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

    def backward_moments(self, *, without: Tensor) -> list[Moment]:
        """Live bytes at each operation of the backward pass: saved tensors and gradients.

        The gradient of an input has the dtype of the input. A storage is freed with its last
        reader; a second gradient of the same tensor is added to the first and then freed.
        """
        readers: dict[int, int] = {}
        for operation in self.operations:
            for tensor in operation.saves:
                readers[id(tensor)] = readers.get(id(tensor), 0) + 1
        live = sum(self.saved(without=without), NOTHING)
        gradients: dict[int, Bytes] = {}
        if self.operations:
            last = self.operations[-1].output
            gradients[id(last)] = last.bytes
            live += last.bytes
        moments = [Moment(live)]
        for operation in reversed(self.operations):
            if not operation.output.requires_grad or id(operation.output) not in gradients:
                continue
            new = NOTHING
            for tensor in operation.inputs:
                if tensor.requires_grad and not operation.in_place:
                    new += tensor.bytes
            moments.append(Moment(live + new, operation.backward_temporary))
            for tensor in operation.inputs:
                if tensor.requires_grad and id(tensor) not in gradients:
                    gradients[id(tensor)] = tensor.bytes
                    live += tensor.bytes
            live -= gradients.pop(id(operation.output))
            for tensor in operation.saves:
                readers[id(tensor)] -= 1
                if not readers[id(tensor)] and tensor is not without:
                    live -= tensor.bytes
        return moments

    def forward_moments(self) -> list[Moment]:
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
            moments.append(Moment(live, sum(operation.forward_temporaries, NOTHING)))
            for tensor in {id(t): t for t in operation.saves}.values():
                if id(tensor) not in made and id(tensor) not in last_use:
                    made.add(id(tensor))
                    live += tensor.bytes
            for tensor in operation.last_used:
                name = id(tensor)
                if last_use[name] == index and name in made and name not in kept:
                    live -= tensor.bytes
        return moments
