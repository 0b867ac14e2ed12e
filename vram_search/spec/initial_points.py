"""Published configurations that did well elsewhere; a search tries them first.

Best first trials over many tasks and models in published LoRA sweeps (arXiv 2508.02932 and
2407.13906): (rank, learning rate, batch size), on all linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vram_search.spec.hyperparameters import Hyperparameters, SearchSpace

PUBLISHED = (
    (16, 2e-4, 16),
    (32, 5e-4, 16),
    (16, 1e-3, 16),
    (8, 2e-4, 8),
    (32, 1e-4, 4),
    (64, 4e-4, 4),
    (16, 4e-5, 4),
)


def initial_points(space: SearchSpace, alpha_ratio: int) -> list[Hyperparameters]:
    """The published points, each moved to the nearest point of the space, without duplicates."""
    target = "all" if "all" in space.lora_target else space.lora_target[-1]
    found: list[Hyperparameters] = []
    for rank, learning_rate, batch_size in PUBLISHED:
        nearest_rank = _nearest(space.lora_rank, rank)
        point = Hyperparameters(
            optim=space.optim[0],
            lora_target=target,
            lora_rank=nearest_rank,
            lora_alpha=alpha_ratio * nearest_rank,
            cutoff_len=max(space.cutoff_len),
            batch_size=_nearest(space.batch_size, batch_size),
            learning_rate=min(max(learning_rate, space.learning_rate.min), space.learning_rate.max),
        )
        if point not in found:
            found.append(point)
    return found


def _nearest(values: Sequence[int], wanted: int) -> int:
    return min(values, key=lambda value: abs(math.log(value / wanted)))
