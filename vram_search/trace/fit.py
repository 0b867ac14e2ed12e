"""Fits bytes of recorded micro-batches by sums of powers of rows, tokens and rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from vram_search.estimate.memory.trace_fit import Candidate, Pass, Polynomial, Term
from vram_search.trace.phases import Array, Phases
from vram_search.trace.settings import Batch

TOLERANCE = 0.002
"""Largest error of a fitted figure, as a share of the peak."""


class NotLinearError(Exception):
    """The recorded bytes follow no such sum."""


@dataclass(frozen=True)
class Sample:
    """One recorded size."""

    batch: Batch
    rank: int
    phases: Phases


def fit_pass(samples: Sequence[Sample], terms: Sequence[Term], grid: Sequence[Sample]) -> Pass:
    """The forward and backward pass (or an evaluation) as polynomials.

    Args:
        terms: powers of rows, tokens and rank.
        grid: sizes (without phases) at which any request may be the peak.

    Raises:
        NotLinearError: the sizes do not run the same requests, or their bytes are no such sum.
    """
    check_alike(samples)
    first = samples[0].phases
    fitter = _Fitter(samples, terms, grid)
    layers = len(first.kept)
    blocks = tuple(fitter.blocks(layer) for layer in range(layers))
    phases = {phase.name: fitter.candidates(place) for place, phase in enumerate(first.phases)}
    return Pass(
        kept=tuple(fitter.vectors(lambda p: p.kept)),
        saved=tuple(fitter.vectors(lambda p: p.saved)),
        left=tuple(fitter.vectors(lambda p: p.left)),
        saved_blocks=blocks,
        phases=phases,
    )


def check_alike(samples: Sequence[Sample]) -> None:
    """Refuses sizes that run different requests.

    Raises:
        NotLinearError: they do.
    """
    requests = {tuple((p.name, len(p.own)) for p in sample.phases.phases) for sample in samples}
    if len(requests) > 1:
        raise NotLinearError("requests differ between sizes")


def features(rows: float, tokens: float, rank: float, terms: Sequence[Term]) -> list[float]:
    """Values of the terms."""
    return [rows**b * tokens**t * rank**r for b, t, r in terms]


class _Fitter:
    def __init__(
        self, samples: Sequence[Sample], terms: Sequence[Term], grid: Sequence[Sample]
    ) -> None:
        self.samples, self.terms = samples, terms
        matrix = np.array([features(*s.batch, s.rank, terms) for s in samples])
        self.scale = np.abs(matrix).max(axis=0)
        self.matrix = matrix / self.scale
        self.peaks = np.array(
            [max((p.own + p.layers.sum(axis=0)).max() for p in s.phases.phases) for s in samples]
        )
        self.grid = np.array([features(*s.batch, s.rank, terms) for s in grid]) / self.scale

    def solve(self, values: Array) -> Array:
        """Coefficients (of scaled terms) of each column of values (samples, columns)."""
        found: Array = np.linalg.lstsq(self.matrix, values, rcond=None)[0]
        error = np.abs(self.matrix @ found - values).max(axis=1, initial=0.0)
        if (error > TOLERANCE * self.peaks).any():
            raise NotLinearError(f"{(error / self.peaks).max():.1%} of the peak")
        return found

    def polynomials(self, values: Array) -> list[Polynomial]:
        return [tuple(column) for column in (self.solve(values) / self.scale[:, None]).T.tolist()]

    def vectors(self, pick: Callable[[Phases], Array]) -> list[Polynomial]:
        return self.polynomials(np.stack([pick(s.phases) for s in self.samples]))

    def blocks(self, layer: int) -> tuple[tuple[Polynomial, int], ...]:
        sizes = [s.phases.saved_blocks[layer] for s in self.samples]
        least = min(len(one) for one in sizes)
        if least != max(len(one) for one in sizes) or not least:
            return ()
        counts: dict[tuple[float, ...], int] = {}
        columns = np.array(sizes, dtype=float)
        try:
            found = self.polynomials(columns)
        except NotLinearError:
            return ()
        for column in found:
            key = tuple(round(value, 6) for value in column)
            counts[key] = counts.get(key, 0) + 1
        return tuple(counts.items())

    def candidates(self, place: int) -> tuple[Candidate, ...]:
        """The requests of a phase that are the peak for some size."""
        phases = [sample.phases.phases[place] for sample in self.samples]
        own = self.solve(np.stack([phase.own for phase in phases]))
        total = self.solve(np.stack([phase.own + phase.layers.sum(axis=0) for phase in phases]))
        chosen = sorted(
            {*np.argmax(self.grid @ total, axis=1), *np.argmax(self.grid @ own, axis=1)}
        )
        found = []
        for request in chosen:
            layers = self.polynomials(np.stack([phase.layers[:, request] for phase in phases]))
            (mine,) = self.polynomials(np.stack([phase.own[[request]] for phase in phases]))
            found.append(Candidate(own=mine, layers=tuple(layers)))
        return tuple(found)


def grid_of(rows: Sequence[int], tokens: Sequence[int], ranks: Sequence[int]) -> list[Sample]:
    """Sizes without recordings."""
    empty = Phases(np.zeros(0), np.zeros(0), np.zeros(0), (), ())
    return [Sample(Batch(b, t), r, empty) for b, t, r in product(rows, tokens, ranks)]
