"""Bytes of a training as polynomials that were fitted to traces of the model's own code.

`vram_search.trace` records a few layers of each kind at a few sizes. Here they are put together for
all layers and any size, without torch. A `Candidate` is one request that may be the peak of its
phase; the peak is the largest of all candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple

from vram_search.estimate.memory.persistent import fresh_block

OUTSIDE_LAYERS = ("start", "head", "chunk", "tail", "end")
"""Phases during which no layer runs."""
Term = tuple[int, int, int]
"""Powers of rows, tokens and rank."""
Polynomial = tuple[float, ...]
"""A coefficient for each term."""


@dataclass(frozen=True)
class Candidate:
    """Live bytes after one request.

    Attributes:
        own: of its phase, and of everything outside the layers.
        layers: of each kept layer; a layer counts as often as it stands for others.
    """

    own: Polynomial
    layers: tuple[Polynomial, ...]


@dataclass(frozen=True)
class Pass:
    """A micro-batch or an evaluation batch.

    Attributes:
        kept: bytes of each kept layer at the end of the forward pass.
        saved: the same at the start of the layers' backward pass.
        left: the same at the end: gradients.
        saved_blocks: for each kept layer, sizes of saved storages, with their numbers.
        phases: candidates of "start", "f0" ..., "head", "b0" ..., "end"; with a fused loss also
            of "chunk" and "tail", between "head" and the first "b".
    """

    kept: tuple[Polynomial, ...]
    saved: tuple[Polynomial, ...]
    left: tuple[Polynomial, ...]
    saved_blocks: tuple[tuple[tuple[Polynomial, int], ...], ...]
    phases: dict[str, tuple[Candidate, ...]]


class Peak(NamedTuple):
    """The largest candidate, by what its bytes are for."""

    phase: str
    own: float
    saved: float
    gradients: float

    @property
    def total(self) -> float:
        return self.own + self.saved + self.gradients


@dataclass(frozen=True)
class TraceFit:
    """Training and evaluation of one model with one set of LoRA modules.

    Attributes:
        terms: of all polynomials.
        stands_for: for each layer of the model the kept layer that stands for it.
        chunks: for each kept layer the tokens to a multiple of which it pads a row.
    """

    terms: tuple[Term, ...]
    stands_for: tuple[int, ...]
    training: Pass
    evaluation: Pass
    chunks: tuple[int, ...]

    def peak(
        self,
        rows: float,
        tokens: int,
        rank: int,
        *,
        evaluates: bool = False,
        earlier_gradients: float | None = None,
        expandable: bool = False,
        chunk_bytes: float = 0.0,
    ) -> Peak:
        """The largest candidate of a micro-batch (or of an evaluation batch).

        Args:
            tokens: of one row.
            earlier_gradients: bytes of all gradients, where micro-batches before have left them.
            expandable: segments are expandable, so that no block keeps a remainder.
            chunk_bytes: logits of one chunk of a fused loss.
        """
        which = self.evaluation if evaluates else self.training
        size = _Size(self, which, (rows, tokens, rank), expandable=expandable)
        return size.peak(earlier_gradients, chunk_bytes)

    def features(self, rows: float, tokens: int, rank: int, chunk: int) -> list[float]:
        """Values of the terms for a layer that pads rows to a multiple of `chunk`."""
        padded = -(-tokens // chunk) * chunk
        return [float(rows**b * padded**t * rank**r) for b, t, r in self.terms]


class _Size:
    def __init__(
        self, fit: TraceFit, which: Pass, size: tuple[float, int, int], *, expandable: bool
    ) -> None:
        self.which, self.stands_for = which, fit.stands_for
        self.counts = [fit.stands_for.count(kept) for kept in range(len(which.kept))]
        of_chunk = {chunk: fit.features(*size, chunk) for chunk in {1, *fit.chunks}}
        self.outside = of_chunk[1]
        self.features = [of_chunk[chunk] for chunk in fit.chunks]
        self.kept, self.saved, self.left = (
            list(map(_value, some, self.features)) for some in (which.kept, which.saved, which.left)
        )
        self.remainders = [
            0.0
            if expandable
            else sum(count * _remainder(_value(size, features)) for size, count in blocks)
            for blocks, features in zip(which.saved_blocks, self.features, strict=True)
        ]

    def peak(self, earlier_gradients: float | None, chunk_bytes: float) -> Peak:
        saved = [bytes_ + extra for bytes_, extra in zip(self.saved, self.remainders, strict=True)]
        kept = [bytes_ + extra for bytes_, extra in zip(self.kept, self.remainders, strict=True)]
        before = [0.0, *accumulate(kept[i] for i in self.stands_for)]
        saved_before = [0.0, *accumulate(saved[i] for i in self.stands_for)]
        left_after = [*accumulate(self.left[i] for i in reversed(self.stands_for))][::-1]
        left_after.append(0.0)
        found = []
        for name in OUTSIDE_LAYERS:
            for candidate in self.which.phases.get(name, ()):
                one = self._outside(name, candidate, earlier_gradients)
                found.append(one._replace(own=one.own + chunk_bytes) if name == "chunk" else one)
        forward, backward = (
            [self._own(phase, layer) for layer in range(len(kept))] for phase in ("f", "b")
        )
        for place, stand_in in enumerate(self.stands_for):
            grown = earlier_gradients or 0.0
            found.append(Peak("forward", forward[stand_in], before[place], grown))
            gradients = left_after[place + 1] if earlier_gradients is None else earlier_gradients
            found.append(Peak("backward", backward[stand_in], saved_before[place], gradients))
        return max(found, key=lambda one: one.total)

    def _own(self, phase: str, layer: int) -> float:
        candidates = self.which.phases.get(f"{phase}{layer}", ())
        features = self.features[layer]
        return max((_value(one.own, features) for one in candidates), default=0.0)

    def _outside(self, name: str, candidate: Candidate, earlier_gradients: float | None) -> Peak:
        own = _value(candidate.own, self.outside)
        layers = map(_value, candidate.layers, self.features)
        by_kind = list(zip(self.counts, layers, self.remainders, strict=True))
        if name == "end":
            left = sum(count * bytes_ for count, bytes_, _ in by_kind)
            return Peak(name, own, 0.0, left)
        extra = 0 if name == "start" else 1
        saved = sum(count * (bytes_ + extra * more) for count, bytes_, more in by_kind)
        return Peak(name, own, saved, earlier_gradients or 0.0)


def _value(polynomial: Polynomial, features: list[float]) -> float:
    return float(sum(map(mul, polynomial, features)))


def _remainder(bytes_: float) -> int:
    size = round(bytes_)
    return fresh_block(size) - fresh_block(size, expandable=True)


def fit_to_json(fit: TraceFit) -> dict[str, Any]:
    """A mapping for JSON."""

    def of_pass(one: Pass) -> dict[str, Any]:
        return {
            "kept": one.kept,
            "saved": one.saved,
            "left": one.left,
            "saved_blocks": one.saved_blocks,
            "phases": {
                name: [[candidate.own, candidate.layers] for candidate in candidates]
                for name, candidates in one.phases.items()
            },
        }

    return {
        "terms": fit.terms,
        "stands_for": fit.stands_for,
        "chunks": fit.chunks,
        "training": of_pass(fit.training),
        "evaluation": of_pass(fit.evaluation),
    }


def parse_fit(data: dict[str, Any]) -> TraceFit:
    """The fit that `fit_to_json` wrote."""

    def of_pass(one: dict[str, Any]) -> Pass:
        return Pass(
            kept=_polynomials(one["kept"]),
            saved=_polynomials(one["saved"]),
            left=_polynomials(one["left"]),
            saved_blocks=tuple(
                tuple((tuple(size), count) for size, count in blocks)
                for blocks in one["saved_blocks"]
            ),
            phases={
                name: tuple(Candidate(tuple(own), _polynomials(layers)) for own, layers in some)
                for name, some in one["phases"].items()
            },
        )

    return TraceFit(
        terms=tuple((b, t, r) for b, t, r in data["terms"]),
        stands_for=tuple(data["stands_for"]),
        training=of_pass(data["training"]),
        evaluation=of_pass(data["evaluation"]),
        chunks=tuple(data["chunks"]),
    )


def _polynomials(values: list[list[float]]) -> tuple[Polynomial, ...]:
    return tuple(tuple(map(float, one)) for one in values)
