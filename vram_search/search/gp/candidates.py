"""Points that could be tried next: anywhere in the space, and near the best ones."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from vram_search.search.observations import Observation
from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.spec.hyperparameters import DIMENSIONS, LEADERS_FIRST, Dimension
from vram_search.spec.space_parts import NumberRange

RANDOM_CANDIDATES, NEAR_CANDIDATES = 400, 100
NEAR_BEST = 5
"""The best trials, in whose neighbourhood some candidates lie."""
NEAR_LOG, NEAR_SHARE = 0.4, 0.1
"""Standard deviation of a step within a range: in the logarithm, or as a share of the range."""


def candidates(
    space: SearchSpace, seen: Sequence[Observation], draw: random.Random
) -> list[Hyperparameters]:
    """Points of the space that were not seen: at random, and near the best ones.

    Args:
        space: its largest cutoff_len stands for all above it that a trial was seen with.
    """
    found = [random_point(space, draw) for _ in range(RANDOM_CANDIDATES)]
    ranked = sorted(
        (t for t in seen if t.final is not None or t.losses),
        key=lambda t: t.final if t.final is not None else min(t.losses),
    )[:NEAR_BEST]
    for _ in range(NEAR_CANDIDATES if ranked else 0):
        best = _cut(draw.choice(ranked).hyperparameters, space)
        found.append(space.point(_near(best, space, draw)))
    known = {_cut(trial.hyperparameters, space) for trial in seen}
    return [point for point in dict.fromkeys(found) if point not in known]


def random_point(space: SearchSpace, draw: random.Random) -> Hyperparameters:
    """Any point of the space: options and ranges are drawn evenly, a learning rate's logarithm."""
    return space.point(_anywhere(space, draw))


def _anywhere(space: SearchSpace, draw: random.Random) -> dict[str, Any]:
    """An option of each hyperparameter."""
    chosen: dict[str, Any] = {}
    for dimension in LEADERS_FIRST:
        options = space.options(dimension)
        if isinstance(options, NumberRange):
            chosen[dimension.name] = _number_within(options, dimension, draw)
        elif len(options) > 1:
            chosen[dimension.name] = draw.choice(options)
    return chosen


def _near(point: Hyperparameters, space: SearchSpace, draw: random.Random) -> dict[str, Any]:
    """The point's options: one listed hyperparameter elsewhere at most, ranges moved a little."""
    other = _anywhere(space, draw)
    searched = list(filter(space.is_searched, DIMENSIONS))
    is_range = {d.name: isinstance(space.options(d), NumberRange) for d in searched}
    changed = draw.choice([*(name for name in is_range if not is_range[name]), ""])
    chosen = {d.name: space.option_of(point, d) for d in searched}
    for dimension in searched:
        options = space.options(dimension)
        if isinstance(options, NumberRange):
            chosen[dimension.name] = _step(chosen[dimension.name], options, dimension, draw)
    return {**chosen, **({changed: other[changed]} if changed else {})}


def _number_within(numbers: NumberRange, dimension: Dimension, draw: random.Random) -> float:
    if dimension.kind == "log":
        drawn = math.exp(draw.uniform(math.log(numbers.min), math.log(numbers.max)))
    else:
        drawn = draw.uniform(numbers.min, numbers.max)
    return _readable(drawn, numbers)


def _step(value: float, numbers: NumberRange, dimension: Dimension, draw: random.Random) -> float:
    if dimension.kind == "log":
        return _readable(value * math.exp(draw.gauss(0.0, NEAR_LOG)), numbers)
    width = numbers.max - numbers.min
    return _readable(value + width * draw.gauss(0.0, NEAR_SHARE), numbers)


def _cut(point: Hyperparameters, space: SearchSpace) -> Hyperparameters:
    largest = max(space.cutoff_len)
    if point.cutoff_len <= largest:
        return point
    return point.model_copy(update={"cutoff_len": largest})


def _readable(value: float, numbers: NumberRange) -> float:
    """Three digits: a number that a person can read."""
    limited = min(max(value, numbers.min), numbers.max)
    return min(max(float(f"{limited:.3g}"), numbers.min), numbers.max)
