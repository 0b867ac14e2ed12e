"""Traces a model at a few sizes and fits its bytes; the answer holds for a range of sizes.

Most models run the same operations whatever the length of a row: five recordings tell the bytes of
every size between two attention windows. A model that loops over chunks of a row runs other
operations at each length: three recordings tell the bytes of one length. A model that loops over
single tokens takes too long at real lengths: its bytes are those of more rows of a short length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from math import lcm
from typing import Any

from vram_search.estimate.memory.trace_fit import TraceFit
from vram_search.model_code.build import load_config
from vram_search.trace.fit import TERMS, NotLinearError, Sample, Samples, check_alike, fit_pass
from vram_search.trace.settings import Batch, TraceSettings
from vram_search.trace.training import Kept, Recording, TracedModel, traced_model

FAR = 1 << 20
"""Tokens of a row that no training reaches."""
STEP = 128
"""Traced lengths are multiples of this, the rows of a block of flash attention."""
LONGEST = 4096
"""No longer row is traced, unless an attention window begins there."""
WINDOWS = ("sliding_window", "attention_chunk_size")
"""Fields of a configuration: a text of so many tokens gets a mask."""
RANKS = (8, 32)
CHECK_RANK = 64
GRID_ROWS = (2, 3, 4, 8, 16, 64)
GRID_RANKS = (1, 8, 64, 256)
SHORT = (64, 128)
"""Lengths at which the numbers of requests are compared."""
MOST_REQUESTS = 8_000
"""A length at which one evaluation makes more requests is not traced (1 ms for each in a training,
and five trainings are recorded)."""
MOST_SHORT_REQUESTS = 3_000
"""The same for the longer of SHORT."""

Report = Callable[[int, int], None]
"""Called with recordings done and all."""


@dataclass(frozen=True)
class Scope:
    """The sizes for which a fit holds.

    Attributes:
        tokens: lowest and highest length of a row.
        several_rows: batches of two rows or more; otherwise of one.
        unit: 0, or the length of the rows that the fit is of: a longer row counts as several.
    """

    tokens: tuple[int, int]
    several_rows: bool
    unit: int = 0


@dataclass(frozen=True)
class Answer:
    """Fits, the sizes for which they hold, and the error at a size that was not fitted.

    Attributes:
        fits: of the worst routing to experts and of a balanced one, if bytes depend on it;
            otherwise one.
    """

    scope: Scope
    fits: tuple[TraceFit, ...]
    error: float


def trace(
    config: dict[str, Any],
    settings: TraceSettings,
    batch: Batch,
    report: Report,
    anchors: Sequence[int] = (),
) -> Answer:
    """Fits that hold for `batch` and, where the model allows it, for other lengths.

    A model that cannot run with a few of its layers (some run twice, or receive what an earlier one
    has kept) is traced with its whole decoder as one layer.

    Args:
        anchors: lengths of which the nearest is traced where a fit holds for one length alone;
            without them it is the batch's own.

    Raises:
        NotLinearError: no polynomial gives the bytes.
    """
    try:
        return _trace(config, settings, batch, report, anchors, "few")
    except NotLinearError:
        raise
    except Exception:  # a model's code may fail in any way
        return _trace(config, settings, batch, report, anchors, "as one")


def _trace(
    config: dict[str, Any],
    settings: TraceSettings,
    batch: Batch,
    report: Report,
    anchors: Sequence[int],
    kept_layers: Kept,
) -> Answer:
    several = batch.rows > 1
    with traced_model(config, settings, kept_layers) as model:
        tracer = _Tracer(model, settings, report)
        rows = min(batch.rows, 2)
        _, short, longer = (model.warm_up(Batch(rows, length)) for length in (SHORT[0], *SHORT))
        if short == longer:
            whole_range = Scope(_range(config, batch.tokens), several)
            with suppress(NotLinearError):
                lengths = _lengths(*whole_range.tokens, lcm(STEP, *model.kept.chunks))
                return tracer.answer(whole_range, lengths)
        per_token = (longer - short) / (SHORT[1] - SHORT[0])
        length = min(anchors, key=lambda one: abs(one - batch.tokens), default=batch.tokens)
        if unit := short_rows(longer, per_token, length):
            return tracer.answer(Scope((1, FAR), True, unit), (unit,))
        return tracer.answer(Scope((length, length), several), (length,))


def short_rows(requests: int, per_token: float, tokens: int) -> int:
    """The length of the short rows that a longer row is counted as; 0 if it is traced itself.

    Args:
        requests: of an evaluation of SHORT[1] tokens.
        per_token: further requests for each further token.
    """
    if requests + per_token * (tokens - SHORT[1]) <= MOST_REQUESTS:
        return 0
    return SHORT[1] if requests <= MOST_SHORT_REQUESTS else SHORT[0]


def _range(config: dict[str, Any], tokens: int) -> tuple[int, int]:
    """Lengths between two windows of the model."""
    text = load_config(config, str(config.get("model_type"))).get_text_config(decoder=True)
    found = [getattr(text, name, None) for name in WINDOWS]
    windows = sorted(value for value in found if isinstance(value, int) and value > 1)
    low = max((value for value in windows if value <= tokens), default=1)
    high = min((value - 1 for value in windows if value > tokens), default=FAR)
    return low, high


def _lengths(low: int, high: int, step: int) -> tuple[int, ...]:
    """Three lengths within a range, of at least two steps where the range has them."""
    first = max(2, -(-low // step))
    if first * step > high:
        return tuple(sorted({low, (low + high) // 2, high}))
    last = min(high // step, max(first + 2, 2 * first, LONGEST // step // 4))
    middle = (first + last) // 2
    return tuple(step * count for count in sorted({first, middle, last}))


class _Tracer:
    def __init__(self, model: TracedModel, settings: TraceSettings, report: Report) -> None:
        self.model, self.settings, self.report = model, settings, report
        self.rank = settings.lora_rank

    def answer(self, scope: Scope, lengths: Sequence[int]) -> Answer:
        """A fit for each routing that is traced."""
        found = []
        for worst in (True, False) if self.model.depends_on_routing else (True,):
            self.model.set_routing(worst=worst)
            found.append(self._checked_fit(scope, lengths))
        fits, errors = zip(*found, strict=True)
        return Answer(scope, fits, max(errors))

    def _checked_fit(self, scope: Scope, lengths: Sequence[int]) -> tuple[TraceFit, float]:
        """The fit of three recordings, or of as many more as there are other lengths, and its error
        in another one."""
        first = lengths[0]
        rows = 2 if scope.several_rows else 1
        sizes = [Batch(rows, length) for length in lengths]
        wider = [Batch(3, first)] if scope.several_rows else []
        plan = [(RANKS[0], size) for size in [*sizes, *wider]]
        plan.append((RANKS[1], sizes[0]))
        check = Batch(2 * rows if scope.several_rows else 1, lengths[len(lengths) // 2])
        plan.append((CHECK_RANK, check))
        found = []
        for done, (rank, size) in enumerate(plan):
            self.report(done, len(plan))
            found.append(self._record(rank, size))
            check_alike([training for training, _ in (found[0], found[-1])])
        self.report(len(plan), len(plan))
        fit = self._fit(scope, found[:-1], len(sizes))
        return fit, _error(fit, *found[-1])

    def _record(self, rank: int, size: Batch) -> tuple[Sample, Sample]:
        if rank != self.rank:
            self.model.set_rank(rank)
            self.rank = rank
        recording: Recording = self.model.record(size)
        return (
            Sample(size, rank, recording.training),
            Sample(size, rank, recording.evaluation),
        )

    def _fit(self, scope: Scope, found: Sequence[tuple[Sample, Sample]], lengths: int) -> TraceFit:
        kept = self.model.kept
        traced = {sample.batch.tokens for sample, _ in found}
        grid = [
            (Batch(rows, tokens), rank)
            for rows, tokens, rank in product(
                GRID_ROWS if scope.several_rows else (1,),
                sorted(traced)
                if scope.unit
                else [t for t in (*_powers(), *traced) if scope.tokens[0] <= t <= scope.tokens[1]],
                GRID_RANKS,
            )
        ]
        passes = []
        for which in (0, 1):
            samples = [both[which] for both in found]
            one = Samples(
                base=samples[0],
                rows=tuple(samples[lengths:-1]),
                lengths=tuple(samples[1:lengths]),
                rank=samples[-1],
            )
            passes.append(fit_pass(one, len(kept.places), grid))
        return TraceFit(
            terms=TERMS,
            stands_for=kept.stands_for,
            training=passes[0],
            evaluation=passes[1],
            chunks=kept.chunks,
        )


def _powers() -> list[int]:
    return [2**power for power in range(6, 16)]


def _error(fit: TraceFit, *checks: Sample) -> float:
    """Largest relative error of the peak of the traced layers at sizes that were not fitted."""
    alone = replace(fit, stands_for=tuple(range(len(fit.training.kept))))
    errors = []
    for evaluates, sample in zip((False, True), checks, strict=True):
        found = alone.peak(*sample.batch, sample.rank, evaluates=evaluates, expandable=True)
        errors.append(abs(found.total / sample.stream.peak - 1))
    return max(errors)
