"""Bytes of recorded micro-batches as polynomials of rows, tokens and rank.

A request's bytes are a product of sizes, and each size depends on rows, tokens or rank alone. So a
few recordings that differ in one of the three tell the polynomial of every request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from vram_search.estimate.memory.trace_fit import Candidate, Pass, Polynomial, Term
from vram_search.trace.phases import Array, split_phases
from vram_search.trace.recorder import AllocationStream
from vram_search.trace.settings import Batch

TERMS: tuple[Term, ...] = tuple(product(range(2), range(3), range(2)))
"""Powers of rows, tokens and rank."""


class NotLinearError(Exception):
    """The recorded bytes follow no such polynomial."""


@dataclass(frozen=True)
class Sample:
    """One recorded size."""

    batch: Batch
    rank: int
    stream: AllocationStream

    @property
    def requests(self) -> Array:
        """Bytes of each request."""
        return np.array([size for size, _ in self.stream.events if size >= 0], dtype=float)


@dataclass(frozen=True)
class Samples:
    """Recordings that differ from `base` in one size each.

    Attributes:
        rows: another number of rows; empty where one row is all that the fit serves.
        lengths: other lengths; empty where the fit serves one length.
        rank: another rank.
    """

    base: Sample
    rows: tuple[Sample, ...]
    lengths: tuple[Sample, ...]
    rank: Sample

    @property
    def all(self) -> tuple[Sample, ...]:
        return (self.base, *self.rows, *self.lengths, self.rank)


def fit_pass(samples: Samples, layers: int, grid: Sequence[tuple[Batch, int]]) -> Pass:
    """The forward and backward pass (or an evaluation) as polynomials.

    Args:
        layers: how many are recorded.
        grid: sizes and ranks at which any request may be the peak.

    Raises:
        NotLinearError: the sizes do not run the same requests.
    """
    check_alike(samples.all)
    split = split_phases(samples.base.stream, _polynomials(samples), layers)
    at = np.array([_features(batch, rank) for batch, rank in grid]).T
    candidates = {}
    for phase in split.phases:
        total = phase.own + phase.layers.sum(axis=0)
        chosen = sorted({*np.argmax(total @ at, axis=0), *np.argmax(phase.own @ at, axis=0)})
        candidates[phase.name] = tuple(
            Candidate(_one(phase.own[request]), _many(phase.layers[:, request]))
            for request in chosen
        )
    return Pass(
        kept=_many(split.kept),
        saved=_many(split.saved),
        left=_many(split.left),
        saved_blocks=tuple(
            tuple(Counter(map(_one, blocks)).items()) for blocks in split.saved_blocks
        ),
        phases=candidates,
    )


def check_alike(samples: Sequence[Sample]) -> None:
    """Refuses sizes that run different requests.

    Raises:
        NotLinearError: they do.
    """
    if len({_requests_by_phase(sample.stream) for sample in samples}) > 1:
        raise NotLinearError("requests differ between sizes")


def _requests_by_phase(stream: AllocationStream) -> tuple[tuple[str, int], ...]:
    ends = [*(place for _, place in stream.marks[1:]), len(stream.events)]
    return tuple(
        (name, sum(size >= 0 for size, _ in stream.events[start:end]))
        for (name, start), end in zip(stream.marks, ends, strict=True)
    )


def _features(batch: Batch, rank: float) -> list[float]:
    return [float(batch.rows**b * batch.tokens**t * rank**r) for b, t, r in TERMS]


def _polynomials(samples: Samples) -> Array:
    """(requests, terms) of the base's requests."""
    base = samples.base
    own = base.requests
    whole = np.maximum(own, 1.0)
    rows = _factor(base.batch.rows, [(s.batch.rows, s.requests / whole) for s in samples.rows], 1)
    tokens = _factor(
        base.batch.tokens, [(s.batch.tokens, s.requests / whole) for s in samples.lengths], 2
    )
    rank = _factor(base.rank, [(samples.rank.rank, samples.rank.requests / whole)], 1)
    count = len(own)
    parts = [np.broadcast_to(one, (count, one.shape[1])) for one in (rows, tokens, rank)]
    found: Array = own[:, None] * np.einsum("nb,nt,nr->nbtr", *parts).reshape(count, -1)
    return found


def _factor(base: int, others: Sequence[tuple[int, Array]], most: int) -> Array:
    """(requests, powers) of the factor that depends on one size; it is 1 at the base.

    A pure power where the ratios are those of one, else the polynomial through all of them.

    Args:
        others: the size and its ratios of bytes to those of the base.
        most: the largest power.
    """
    if not others:
        return np.eye(1, most + 1)
    ratios = np.stack([ratio for _, ratio in others], axis=1)
    sizes = np.array([size / base for size, _ in others])
    count = len(others)
    nodes = np.vander(np.array([1.0, *sizes]), count + 1, increasing=True)
    values = np.concatenate([np.ones((len(ratios), 1)), ratios], axis=1)
    found = np.zeros((len(ratios), max(most, count) + 1))
    found[:, : count + 1] = np.linalg.solve(nodes, values.T).T
    for power in range(most + 1):
        is_pure = np.isclose(ratios, sizes**power, rtol=1e-9).all(axis=1)
        found[is_pure] = np.eye(1, found.shape[1], power)
    scaled: Array = (found / float(base) ** np.arange(found.shape[1]))[:, : most + 1]
    return scaled


def _one(values: Array) -> Polynomial:
    return tuple(values.tolist())


def _many(values: Array) -> tuple[Polynomial, ...]:
    return tuple(map(_one, values))
