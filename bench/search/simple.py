"""Strategies without a model: random order, published defaults, and LLaMA-Factory-style grid."""

from __future__ import annotations

import itertools

from bench.search.replay import Replay
from vram_search.spec import Hyperparameters
from vram_search.spec.initial_points import initial_points

LEARNING_RATES = (5e-5, 1e-4, 5e-4)
RANKS = (8, 16, 32)
BATCH_SIZES = (8, 16, 32)


def random_search(replay: Replay) -> None:
    """Configurations in random order."""
    while replay.is_open:
        replay.run(replay.random.choice(replay.remaining))


def published(replay: Replay) -> None:
    """The published configurations that a search of ours tries first, and nothing else.

    Ends after seven trials.
    """
    for point in initial_points(replay.table.space):
        if not replay.is_open:
            return
        replay.run(replay.nearest(point))


def grid_search(replay: Replay) -> None:
    """3 x 3 x 3 around LLaMA-Factory's example (1e-4, r8, all layers), in random order.

    `examples/train_lora/qwen3_lora_sft.yaml`. Ends after 27 trials.
    """
    space = replay.table.space
    grid = list(itertools.product(LEARNING_RATES, RANKS, BATCH_SIZES))
    replay.random.shuffle(grid)
    for learning_rate, rank, batch_size in grid:
        if not replay.is_open:
            return
        point = Hyperparameters(
            optim=space.optim[0],
            lora_target="all",
            lora_rank=rank,
            lora_alpha=2 * rank,
            cutoff_len=max(space.cutoff_len),
            batch_size=batch_size,
            learning_rate=learning_rate,
        )
        replay.run(replay.nearest(point))
