"""How much to add to a prediction so that the next trial stays below it (split conformal).

Angelopoulos and Bates, "A Gentle Introduction to Conformal Prediction" (2021), section 1, with
log(measured / predicted) as the score. The logarithm keeps order, so ratios are ranked as they are.

Promised is that the next trial's allocated peak stays below predicted * (1 + margin) with the
stated probability, over all trials and where they are exchangeable. Required bytes inherit it as
far as their predicted ratio to allocated bytes holds; they are never measured, so the planner's
margin has a floor from each out-of-memory besides (`worker/margin.py`). Not promised: the same
probability for each single configuration, or for trials unlike those before them (another model,
another stack, a corner of the search space that the sampler enters late).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vram_search.estimate.memory.objectives import SFT
from vram_search.estimate.memory.traced import is_traced
from vram_search.spec.shape import ModelShape

PRIOR_RATIOS: tuple[float, ...] = (
    0.9926,
    0.9981,
    0.9998,
    0.9999,
    1.0,
    1.0,
    1.0,
    1.0,
    1.0001,
    1.0001,
    1.0001,
    1.0002,
    1.0002,
    1.0002,
    1.0002,
    1.0003,
    1.0004,
    1.0005,
    1.0018,
    1.0066,
)
"""Measured / predicted allocated bytes of the runs in `tests/fixtures/vram_truth.jsonl` that
finished without a limit: 20 order statistics, evenly spaced from the lowest to the highest.

`predict` was developed with these runs in view, so errors on other cards and models may be larger.
"""

TRACED_RATIOS: tuple[float, ...] = (
    0.9475,
    0.9936,
    0.9986,
    *(1.0,) * 4,
    *(1.0001,) * 6,
    1.0002,
    1.0004,
    1.0006,
    1.0007,
    1.0008,
    1.0009,
    1.0012,
    1.003,
    1.0122,
    1.0128,
    1.0171,
)
"""The same for models without a formula that are traced: runs of `bench.trace.families` and of
`bench.gpu_families` (docs/experiments.md)."""
GENERIC_MARGIN = 0.15
"""Margin of a family that neither a formula nor a trace covers: assumed, not measured."""

PREFERENCE_MARGIN = 0.05
"""Margin of preference losses, whose bytes were checked on traces and on few runs: assumed."""


def margin_for(shape: ModelShape, ratios: Sequence[float] = (), *, objective: str = SFT) -> float:
    """The margin of a model; its prior is GENERIC_MARGIN alone where neither a formula nor a
    trace answers.

    Args:
        ratios: as in `conformal_margin`.
        objective: as in `Workload`; any other than SFT has a prior of PREFERENCE_MARGIN or more.

    Raises:
        ValueError: a ratio is not a finite number above 0.
    """
    prior = _prior(shape)
    if objective != SFT:
        prior = (max(*prior, 1.0 + PREFERENCE_MARGIN),)
    return conformal_margin(ratios, prior=prior)


def _prior(shape: ModelShape) -> tuple[float, ...]:
    if not shape.not_modelled:
        return PRIOR_RATIOS
    return TRACED_RATIOS if is_traced(shape) else (1 + GENERIC_MARGIN,)


def conformal_margin(
    ratios: Sequence[float], level: float = 0.95, prior: Sequence[float] = PRIOR_RATIOS
) -> float:
    """Factor - 1 by which predicted bytes are raised: 0.02 is 2 %; never below 0.

    With n own ratios the ceil((n + 1) * level)-th smallest covers an exchangeable next trial with
    probability `level` or more, whatever the distribution. It exists from n = 19 on at 95 %. With
    fewer, own ratios are ranked among those of `prior`, and the largest own one is always covered;
    then the promise holds only as far as this card behaves like the one of `prior`.

    >>> round(conformal_margin([0.99, 1.01], prior=[1.0, 1.02]), 4)
    0.02

    Args:
        ratios: measured / predicted of this machine's own trials, in any order.
        level: wanted probability, above 0 and below 1.
        prior: the same ratios, from elsewhere.

    Raises:
        ValueError: a ratio is not a finite number above 0, `level` is not inside (0, 1), or there
            is no ratio at all.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}; give a probability above 0 and below 1")
    own = _ordered(ratios)
    rank = _rank(len(own), level)
    if rank <= len(own):
        ratio = own[rank - 1]
    else:
        pooled = _ordered([*own, *prior])
        if not pooled:
            raise ValueError("no ratio is given; pass measured / predicted of at least one run")
        ratio = pooled[min(_rank(len(pooled), level), len(pooled)) - 1]
        ratio = max([ratio, *own])
    return max(0.0, ratio - 1)


def _rank(count: int, level: float) -> int:
    """ceil((count + 1) * level), and 19 for 20 * 0.95 whatever the binary fraction says."""
    return math.ceil((count + 1) * level - 1e-9)


def _ordered(ratios: Sequence[float]) -> list[float]:
    for ratio in ratios:
        if not (math.isfinite(ratio) and ratio > 0):
            raise ValueError(
                f"measured / predicted is {ratio!r}; it must be a finite number above 0"
            )
    return sorted(ratios)
