"""Hyperparameters as coordinates in which equal distances change losses about equally."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from vram_search.search.gp.surrogate import Array, Flags
from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.spec.hyperparameters import MAIN, OTHERS, Coordinate, Dimension, Frame


def surrogate_dimensions(space: SearchSpace) -> tuple[Dimension, ...]:
    """The dimensions that a search's surrogate uses: those that every search records, and any other
    that this search varies."""
    searched = [dimension for dimension in OTHERS if space.is_searched(dimension)]
    return (*MAIN, *(_with_indicators(one, space) for one in searched))


def _with_indicators(dimension: Dimension, space: SearchSpace) -> Dimension:
    """Gives the base model a coordinate for each model besides its size.

    All models are equally far apart there. The length scale, by which losses of one model tell of
    another's, is learnt.
    """
    if dimension.group != "base":
        return dimension
    names = space.model or ()
    indicators = (Coordinate(1.0, partial(_is_model, name), is_learnt=True) for name in names)
    return replace(dimension, coordinates=(*dimension.coordinates, *indicators))


def _is_model(name: str, point: Hyperparameters, frame: Frame) -> float:
    return float(point.model == name)


def scales(dimensions: Sequence[Dimension]) -> Array:
    """Distances [d] over which losses change."""
    return np.array([one.scale for dimension in dimensions for one in dimension.coordinates])


def learnt(dimensions: Sequence[Dimension]) -> Flags:
    """Marks the coordinates [d] whose length scale the surrogate learns by itself."""
    return np.array([one.is_learnt for dimension in dimensions for one in dimension.coordinates])


def features(
    points: Sequence[Hyperparameters], frame: Frame, dimensions: Sequence[Dimension] = MAIN
) -> Array:
    """Coordinates [n, d] of points that belong to one search."""
    used = [one for dimension in dimensions for one in dimension.coordinates]
    rows = [[one.position(point, frame) for one in used] for point in points]
    return np.array(rows, dtype=float).reshape(len(rows), len(used))
