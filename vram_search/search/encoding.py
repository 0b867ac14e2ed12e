"""Hyperparameters as numbers for the sampler, and back.

A list of numbers becomes the index in that list (for powers of two that is their logarithm), a
range its numbers, and names stay categories. A hyperparameter with one value is not shown to the
sampler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.spec.hyperparameters import DIMENSIONS, Dimension
from vram_search.spec.space_parts import NumberRange


@dataclass(frozen=True)
class _Parameter:
    """A searched hyperparameter as Optuna sees it."""

    dimension: Dimension
    options: tuple[Any, ...] | NumberRange

    @property
    def indexed(self) -> tuple[Any, ...] | None:
        """The options where Optuna sees their index."""
        is_range = isinstance(self.options, NumberRange)
        return None if is_range or self.dimension.is_name else tuple(self.options)

    @property
    def name(self) -> str:
        return self.dimension.name if self.indexed is None else f"{self.dimension.name}_index"

    @property
    def distribution(self) -> BaseDistribution:
        if isinstance(self.options, NumberRange):
            is_log = self.dimension.kind == "log"
            return FloatDistribution(self.options.min, self.options.max, log=is_log)
        if self.indexed is None:
            return CategoricalDistribution(self.options)
        return IntDistribution(0, len(self.options) - 1)


def _parameters(space: SearchSpace) -> list[_Parameter]:
    searched = filter(space.is_searched, DIMENSIONS)
    return [_Parameter(dimension, space.options(dimension)) for dimension in searched]


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Optuna's view of the space: everything that is searched."""
    return {one.name: one.distribution for one in _parameters(space)}


def decode(params: dict[str, Any], space: SearchSpace) -> Hyperparameters:
    """Hyperparameters of Optuna's parameters; what is not searched comes from the space."""
    chosen: dict[str, Any] = {}
    for one in _parameters(space):
        if one.name in params:
            value = params[one.name]
            chosen[one.dimension.name] = one.indexed[value] if one.indexed else value
    return space.point(chosen)


def encode(hyperparameters: Hyperparameters, space: SearchSpace) -> dict[str, Any]:
    """Optuna's parameters of a point of the space.

    Raises:
        ValueError: it is no point of the space.
    """
    if not space.contains(hyperparameters):
        raise ValueError(f"{hyperparameters} is not in the search space")
    params: dict[str, Any] = {}
    for one in _parameters(space):
        option = space.option_of(hyperparameters, one.dimension)
        params[one.name] = one.indexed.index(option) if one.indexed else option
    return params
