"""Hyperparameters as coordinates in which equal distances change losses about equally."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vram_search.search.gp.surrogate import Array
from vram_search.spec import Hyperparameters
from vram_search.spec.lora_targets import LORA_TARGET_SETS
from vram_search.spec.optimizers import OPTIMIZERS

MODULES = 7
"""Linear layers of a transformer block: q, k, v, o, gate, up, down."""
SCALES = np.array([0.6, 2.0, 1.2, 1.5, 1.8, 1.0, 3.0])
"""Distances over which losses change, from the curves in bench/curves/tables: the learning rate
decides most, a state's bits least."""


def features(
    points: Sequence[Hyperparameters], longest_cutoff: int, learning_rate_factor: float = 1.0
) -> Array:
    """Coordinates [n, 7] of points.

    Args:
        longest_cutoff: of the search that the points belong to.
        learning_rate_factor: brings learning rates to those of the model that is searched for.
    """
    rows = [_row(point, longest_cutoff, learning_rate_factor) for point in points]
    return np.array(rows, dtype=float).reshape(len(rows), len(SCALES))


def _row(point: Hyperparameters, longest_cutoff: int, learning_rate_factor: float) -> list[float]:
    optimizer = OPTIMIZERS[point.optim]
    return [
        math.log10(point.learning_rate * learning_rate_factor / 2e-4),
        math.log2(point.lora_rank / 16) / 2,
        _module_share(point.lora_target),
        math.log2(point.cutoff_len / longest_cutoff) / 2,
        math.log2(point.batch_size / 8),
        float(optimizer.is_lion),
        float(optimizer.eight_bit),
    ]


def _module_share(target: str) -> float:
    """0 where two modules are trained, 1 where all are."""
    if target == "all":
        return 1.0
    modules = LORA_TARGET_SETS.get(target) or target.split(",")
    return min(1.0, max(0.0, (len(modules) - 2) / (MODULES - 2)))
