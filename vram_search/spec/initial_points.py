"""Published configurations with good results elsewhere. A search tries them first.

They were the best first trials over many tasks and models in published LoRA sweeps (arXiv
2508.02932 and 2407.13906): (rank, learning rate, batch size), on all linear layers.
"""

from __future__ import annotations

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
