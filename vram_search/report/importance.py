"""Importance: the share of the spread of the objective that each hyperparameter explains alone."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vram_search.report.dimensions import is_varied
from vram_search.report.figures import comparable
from vram_search.spec.hyperparameters import DIMENSIONS, Dimension
from vram_search.store import TrialRecord

MAX_VALUES = 6
"""A number with more distinct values than this is cut into QUANTILES groups of equal size."""
QUANTILES = 5
FEWEST_TRIALS = 8
"""With fewer complete trials nothing is said."""


@dataclass(frozen=True)
class Group:
    """Trials that share a value, or a range of values, of one hyperparameter."""

    label: str
    low: Any
    """Smallest value; the value itself where it is not a number."""
    high: Any
    losses: tuple[float, ...]

    @property
    def median_loss(self) -> float:
        return statistics.median(self.losses)


@dataclass(frozen=True)
class Importance:
    """One hyperparameter's share of the spread.

    Attributes:
        share: epsilon squared of the ranks, 0 to 1.
        groups: in order of the value.
    """

    name: str
    share: float
    groups: tuple[Group, ...]


def importances(trials: Iterable[TrialRecord]) -> list[Importance]:
    """Main effects of the hyperparameters that varied, the largest first.

    Epsilon squared on the ranks of the objective: 1 - (within-group mean square) / (total mean
    square), the one-way share of variance less what groups of these sizes explain by chance
    (Kelley, PNAS 1935; on ranks it is the effect size of the Kruskal-Wallis test). No
    interactions; of complete trials only, so that what pruning removed early counts less. One that
    follows another, as `lora_alpha` the rank, is left out where it varies with the other alone. A
    trial counts where its value is known: an imported run may lack some.

    Returns:
        Nothing with fewer than FEWEST_TRIALS complete trials.
    """
    counted = comparable(trials)
    if len(counted) < FEWEST_TRIALS:
        return []
    found = []
    for dimension in DIMENSIONS:
        known = [one for one in counted if dimension.value_in(one.hyperparameters) is not None]
        if len(known) < FEWEST_TRIALS or not is_varied(dimension, known):
            continue
        values = [dimension.value_in(trial.hyperparameters) for trial in known]
        keys = _group_keys(values)
        if len(set(keys)) < 2:
            continue
        losses = [trial.value or 0.0 for trial in known]
        share = epsilon_squared(mean_ranks(losses), keys)
        found.append(Importance(dimension.name, share, _groups(dimension, values, keys, losses)))
    return sorted(found, key=lambda item: (-item.share, item.name))


def epsilon_squared(values: Sequence[float], keys: Sequence[int]) -> float:
    """Share of the variance of `values` between the groups that `keys` name; at least 0."""
    groups: dict[int, list[float]] = {}
    for value, key in zip(values, keys, strict=True):
        groups.setdefault(key, []).append(value)
    total = _squares(values)
    free = len(values) - len(groups)
    if total == 0 or free <= 0:
        return 0.0
    within = sum(_squares(group) for group in groups.values())
    return max(0.0, 1 - (within / free) / (total / (len(values) - 1)))


def mean_ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    order = sorted(values)
    first: dict[float, int] = {}
    last: dict[float, int] = {}
    for place, value in enumerate(order, start=1):
        first.setdefault(value, place)
        last[value] = place
    return [(first[value] + last[value]) / 2 for value in values]


def _squares(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _group_keys(values: Sequence[Any]) -> list[int]:
    """Which group each value is in, counted from 0 in the order of the values."""
    numbers = all(_is_number(value) for value in values)
    distinct = sorted(set(values)) if numbers else sorted({str(value) for value in values})
    if not numbers:
        return [distinct.index(str(value)) for value in values]
    if len(distinct) <= MAX_VALUES:
        return [distinct.index(value) for value in values]
    edges = statistics.quantiles(values, n=QUANTILES, method="inclusive")
    return [bisect_right(edges, value) for value in values]


def _groups(
    dimension: Dimension, values: Sequence[Any], keys: Sequence[int], losses: Sequence[float]
) -> tuple[Group, ...]:
    groups = []
    for key in sorted(set(keys)):
        inside = [index for index, own in enumerate(keys) if own == key]
        members = [values[index] for index in inside]
        order = None if all(map(_is_number, members)) else str
        low, high = min(members, key=order), max(members, key=order)
        label = _label(dimension, low)
        if low != high:
            label += f" to {_label(dimension, high)}"
        groups.append(Group(label, low, high, tuple(losses[index] for index in inside)))
    return tuple(groups)


def _label(dimension: Dimension, value: Any) -> str:
    is_unformatted = isinstance(value, float) and dimension.form == "{}"
    return f"{value:.2g}" if is_unformatted else dimension.shown(value)
