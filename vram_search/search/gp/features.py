"""Hyperparameters as coordinates in which equal distances change losses about equally."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vram_search.search.gp.surrogate import Array
from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.spec.hyperparameters import MAIN, OTHERS, Dimension, Frame


def surrogate_dimensions(space: SearchSpace) -> tuple[Dimension, ...]:
    """The dimensions that a search's surrogate uses: those that every search records, and any other
    that this search varies."""
    return (*MAIN, *filter(space.is_searched, OTHERS))


def scales(dimensions: Sequence[Dimension]) -> Array:
    """Distances [d] over which losses change."""
    return np.array([one.scale for dimension in dimensions for one in dimension.coordinates])


def features(
    points: Sequence[Hyperparameters], frame: Frame, dimensions: Sequence[Dimension] = MAIN
) -> Array:
    """Coordinates [n, d] of points that belong to one search."""
    used = [one for dimension in dimensions for one in dimension.coordinates]
    rows = [[one.position(point, frame) for one in used] for point in points]
    return np.array(rows, dtype=float).reshape(len(rows), len(used))
