"""Published configurations with good results elsewhere. A search tries them first.

They were the best first trials over many tasks and models in published LoRA sweeps (arXiv
2508.02932 and 2407.13906): (rank, learning rate, batch size), on all linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vram_search.spec.point import Hyperparameters
from vram_search.spec.search_space import SearchSpace

PUBLISHED = (
    (16, 2e-4, 16),
    (32, 5e-4, 16),
    (16, 1e-3, 16),
    (8, 2e-4, 8),
    (32, 1e-4, 4),
    (64, 4e-4, 4),
    (16, 4e-5, 4),
)


def for_each_model(
    points: Sequence[Hyperparameters], names: Sequence[str]
) -> Sequence[Hyperparameters]:
    """Shares points out among the base models of a study, grouped by model.

    Each model gets at least the first point.

    Args:
        names: short names of the models; none if the study has one model.
    """
    if not names or not points:
        return points
    each = math.ceil(len(points) / len(names))
    return [one.model_copy(update={"model": name}) for name in names for one in points[:each]]


def initial_points(space: SearchSpace) -> list[Hyperparameters]:
    """Moves each published point to the nearest point of the space, and drops duplicates."""
    points = (
        space.nearest(
            {
                "lora_target": "all",
                "lora_rank": rank,
                "cutoff_len": max(space.cutoff_len),
                "batch_size": batch_size,
                "learning_rate": learning_rate,
            }
        )
        for rank, learning_rate, batch_size in PUBLISHED
    )
    return list(dict.fromkeys(points))
