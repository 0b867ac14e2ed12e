"""Points that could be tried next: anywhere in the space, and near the best ones."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from vram_search.search.observations import Observation
from vram_search.spec import Hyperparameters, SearchSpace

RANDOM_CANDIDATES, NEAR_CANDIDATES = 400, 100
NEAR_BEST = 5
"""The best trials, in whose neighbourhood some candidates lie."""


def candidates(
    space: SearchSpace, alpha_ratio: int, seen: Sequence[Observation], draw: random.Random
) -> list[Hyperparameters]:
    """Points of the space that were not seen: at random, and near the best ones.

    Args:
        space: its largest cutoff_len stands for all above it that a trial was seen with.
    """
    found = [_anywhere(space, alpha_ratio, draw) for _ in range(RANDOM_CANDIDATES)]
    ranked = sorted(
        (t for t in seen if t.final is not None or t.losses),
        key=lambda t: t.final if t.final is not None else min(t.losses),
    )[:NEAR_BEST]
    for _ in range(NEAR_CANDIDATES if ranked else 0):
        best = _cut(draw.choice(ranked).hyperparameters, space)
        found.append(_near(best, space, alpha_ratio, draw))
    known = {_cut(trial.hyperparameters, space) for trial in seen}
    return [point for point in dict.fromkeys(found) if point not in known]


def _anywhere(space: SearchSpace, alpha_ratio: int, draw: random.Random) -> Hyperparameters:
    rank = draw.choice(space.lora_rank)
    low, high = math.log(space.learning_rate.min), math.log(space.learning_rate.max)
    return Hyperparameters(
        optim=draw.choice(space.optim),
        lora_target=draw.choice(space.lora_target),
        lora_rank=rank,
        lora_alpha=alpha_ratio * rank,
        cutoff_len=draw.choice(space.cutoff_len),
        batch_size=draw.choice(space.batch_size),
        learning_rate=_within(math.exp(draw.uniform(low, high)), space),
    )


def _near(
    point: Hyperparameters, space: SearchSpace, alpha_ratio: int, draw: random.Random
) -> Hyperparameters:
    """One categorical or ordered hyperparameter elsewhere at most, the learning rate moved."""
    other = _anywhere(space, alpha_ratio, draw)
    name = draw.choice(("optim", "lora_target", "lora_rank", "cutoff_len", "batch_size", ""))
    changes: dict[str, object] = {name: getattr(other, name)} if name else {}
    if name == "lora_rank":
        changes["lora_alpha"] = other.lora_alpha
    rate = point.learning_rate * math.exp(draw.gauss(0.0, 0.4))
    return point.model_copy(update={**changes, "learning_rate": _within(rate, space)})


def _cut(point: Hyperparameters, space: SearchSpace) -> Hyperparameters:
    largest = max(space.cutoff_len)
    if point.cutoff_len <= largest:
        return point
    return point.model_copy(update={"cutoff_len": largest})


def _within(rate: float, space: SearchSpace) -> float:
    """Three digits: a learning rate that a person can read."""
    limited = min(max(rate, space.learning_rate.min), space.learning_rate.max)
    rounded = float(f"{limited:.3g}")
    return min(max(rounded, space.learning_rate.min), space.learning_rate.max)
