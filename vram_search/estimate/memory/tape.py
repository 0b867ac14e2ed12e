"""The record of a forward pass over symbolic tensors. No torch.

A tensor's bytes are `per_token * tokens + constant`. A `Tape` records operations with the tensors
that each saves for its backward pass (only where an input requires a gradient, as in torch's
engine). `events` lists the requests and releases of both passes.
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
    """Bytes that Python's frames keep until this operation has run."""
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
    """Bytes that stay alive between forward and backward although nothing is saved for it."""

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
