"""Traces a model at a few sizes and fits its bytes; the answer holds for a range of sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from vram_search.estimate.memory.trace_fit import Term, TraceFit
from vram_search.model_code.build import load_config
from vram_search.trace.fit import NotLinearError, Sample, check_alike, fit_pass, grid_of
from vram_search.trace.phases import split_phases
from vram_search.trace.settings import Batch, TraceSettings
from vram_search.trace.training import record

FAR = 1 << 20
"""Tokens of a row that no training reaches."""
USUAL = 1024
STEP = 64
"""Traced lengths are multiples of this, the chunk of linear attention."""
WINDOWS = ("sliding_window", "attention_chunk_size")
"""Fields of a configuration: a text of so many tokens gets a mask."""
RANKS = (8, 32)
CHECK_RANK = 64
GRID_ROWS = (2, 3, 4, 8, 16, 64)
GRID_RANKS = (1, 8, 64, 256)

Report = Callable[[int, int], None]
"""Called with recordings done and all."""


@dataclass(frozen=True)
class Scope:
    """The sizes for which a fit holds.

    Attributes:
        tokens: lowest and highest length of a row.
        several_rows: batches of two rows or more; otherwise of one.
    """

    tokens: tuple[int, int]
    several_rows: bool


@dataclass(frozen=True)
class Answer:
    """A fit, the sizes for which it holds, and the error at a size that was not fitted."""

    scope: Scope
    fit: TraceFit
    error: float


def trace(config: dict[str, Any], settings: TraceSettings, batch: Batch, report: Report) -> Answer:
    """A fit that holds for `batch` and, where the model allows it, for other lengths.

    Raises:
        NotLinearError: no sum of powers gives the bytes.
    """
    several = batch.rows > 1
    low, high = _range(config, batch.tokens)
    exactly = Scope((batch.tokens, batch.tokens), several)
    try:
        if runs_alike(config, settings, batch.rows):
            whole_range = Scope((low, high), several)
            return _trace(config, settings, whole_range, _lengths(low, high), report)
    except NotLinearError:
        pass
    return _trace(config, settings, exactly, (batch.tokens,), report)


def runs_alike(config: dict[str, Any], settings: TraceSettings, rows: int) -> bool:
    """True if short texts of two lengths run the same requests: no loop over chunks or tokens."""
    batches = [Batch(min(rows, 2), STEP * count) for count in (1, 2)]
    found = record(config, settings, batches)
    counts = {len(recording.training.events) for recording in found.of_sizes}
    return len(counts) == 1


def _range(config: dict[str, Any], tokens: int) -> tuple[int, int]:
    """Lengths between two windows of the model."""
    text = load_config(config, str(config.get("model_type"))).get_text_config(decoder=True)
    found = [getattr(text, name, None) for name in WINDOWS]
    windows = sorted(value for value in found if isinstance(value, int) and value > 1)
    low = max((value for value in windows if value <= tokens), default=1)
    high = min((value - 1 for value in windows if value > tokens), default=FAR)
    return low, high


def _lengths(low: int, high: int) -> tuple[int, ...]:
    """Three lengths within a range."""
    if high >= FAR:
        start = max(4 * STEP, -(-low // STEP) * STEP)
        return (
            (start, 2 * start, 4 * start) if start <= USUAL else (start, start + USUAL, 2 * start)
        )
    most = min(USUAL, high // STEP * STEP)
    least = -(-low // STEP) * STEP
    if low > 1:
        most = high // STEP * STEP
        return (least, (least + most) // 2 // STEP * STEP, most)
    return (max(STEP, most // 4 // STEP * STEP), max(STEP, most // 2 // STEP * STEP), most)


def _trace(
    config: dict[str, Any],
    settings: TraceSettings,
    scope: Scope,
    lengths: Sequence[int],
    report: Report,
) -> Answer:
    plan = _plan(lengths, several_rows=scope.several_rows)
    training: list[Sample] = []
    evaluation: list[Sample] = []
    stands_for: tuple[int, ...] = ()
    for done, (rank, batches) in enumerate(plan):
        report(done, len(plan))
        recordings = record(config, replace(settings, lora_rank=rank), batches)
        stands_for, layers = recordings.kept.stands_for, len(recordings.kept.places)
        for one in recordings.of_sizes:
            training.append(Sample(one.batch, rank, split_phases(one.training, layers)))
            evaluation.append(Sample(one.batch, rank, split_phases(one.evaluation, layers)))
        check_alike(training)
        check_alike(evaluation)
    report(len(plan), len(plan))
    grid = grid_of(
        GRID_ROWS if scope.several_rows else (1,),
        [t for t in (*_powers(), *lengths) if scope.tokens[0] <= t <= scope.tokens[1]],
        GRID_RANKS,
    )
    terms = _terms(several_rows=scope.several_rows, several_lengths=len(lengths) > 1)
    fit = TraceFit(
        terms=terms,
        stands_for=stands_for,
        training=fit_pass(training[:-1], terms, grid),
        evaluation=fit_pass(evaluation[:-1], terms, grid),
    )
    return Answer(scope, fit, _error(fit, training[-1], evaluation[-1]))


def _plan(lengths: Sequence[int], *, several_rows: bool) -> list[tuple[int, list[Batch]]]:
    """Ranks with the sizes to record, and last the size that checks the fit."""
    middle = lengths[len(lengths) // 2]
    if several_rows:
        return [
            (RANKS[0], [Batch(rows, length) for rows, length in product((2, 3), lengths)]),
            (RANKS[1], [Batch(2, lengths[-1]), Batch(3, lengths[0])]),
            (CHECK_RANK, [Batch(4, middle)]),
        ]
    return [
        (RANKS[0], [Batch(1, length) for length in lengths]),
        (RANKS[1], [Batch(1, length) for length in dict.fromkeys((lengths[0], lengths[-1]))]),
        (CHECK_RANK, [Batch(1, middle)]),
    ]


def _powers() -> list[int]:
    return [2**power for power in range(6, 16)]


def _terms(*, several_rows: bool, several_lengths: bool) -> tuple[Term, ...]:
    """Powers of rows, tokens and rank: what is constant, of each row or token, of the adapter."""
    rows = (0, 1) if several_rows else (0,)
    tokens = (0, 1, 2) if several_lengths else (0,)
    terms: list[Term] = [(b, t, 0) for b, t in product(rows, tokens)]
    if several_rows or several_lengths:
        return (*terms, (0, 0, 1), (rows[-1], 1 if several_lengths else 0, 1))
    return (*terms, (0, 0, 1))


def _error(fit: TraceFit, *checks: Sample) -> float:
    """Largest relative error of the peak of the traced layers at sizes that were not fitted."""
    errors = []
    kept = tuple(range(len(fit.training.kept)))
    alone = replace(fit, stands_for=kept)
    for evaluates, sample in zip((False, True), checks, strict=True):
        found = alone.peak(*sample.batch, sample.rank, evaluates=evaluates, expandable=True)
        phases = sample.phases.phases
        real = max(float((p.own + p.layers.sum(axis=0)).max()) for p in phases)
        errors.append(abs(found.total / real - 1))
    return max(errors)
