"""From values to pixels: linear and logarithmic axes with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vram_search.units import GIB, format_small


@dataclass(frozen=True)
class Scale:
    """Maps `low`..`high` to the pixels `start`..`end`.

    Args:
        labels: labels of the ticks, by value.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    labels: dict[float, str] = field(default_factory=dict)

    def pixel(self, value: float) -> float:
        """Where a value lies; those outside are held at the edge."""
        return self.start + self.share(value) * (self.end - self.start)

    def share(self, value: float) -> float:
        """0 at `low`, 1 at `high`."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return min(max((value - low) / (high - low), 0.0), 1.0)


def linear(
    values: Iterable[float], start: float, end: float, *, ticks: int = 7, pad: float = 0.05
) -> Scale:
    """A linear axis around the values; `pad` is the share left free at both ends."""
    low, high = _spread(values)
    room = (high - low) * pad
    low, high = low - room, high + room
    return Scale(low, high, start, end, labels=_round_ticks(low, high, ticks))


def gib(values: Iterable[float], start: float, end: float, *, from_zero: bool = False) -> Scale:
    """An axis of bytes whose ticks are in GiB."""
    low, high = _spread(values)
    room = (high - low) * 0.05
    low, high = (0.0 if from_zero else max(0.0, low - room)), high + room
    ticks = _round_ticks(low / GIB, high / GIB, 7)
    return Scale(low, high, start, end, labels={tick * GIB: text for tick, text in ticks.items()})


def logarithmic(
    values: Iterable[float], start: float, end: float, labels: dict[float, str] | None = None
) -> Scale:
    """A logarithmic axis of positive values; `labels` replaces its ticks at 1, 2 and 5.

    Where only one of these or none lies on the axis, the values themselves are its ticks.
    """
    found = [value for value in values if value > 0] or [1.0]
    low, high = min(found) / 1.15, max(found) * 1.15
    ticks = _log_ticks(low, high) if labels is None else labels
    if len(ticks) < 2:
        ticks = {value: short_number(float(f"{value:.3g}")) for value in found}
    return Scale(low, high, start, end, is_log=True, labels=ticks)


def steps(names: Sequence[str], start: float, end: float) -> Scale:
    """An axis of names, evenly spaced; the value of a name is its place in the list."""
    labels = {float(place): name for place, name in enumerate(names)}
    return Scale(-0.5, len(names) - 0.5, start, end, labels=labels)


def short_number(value: float) -> str:
    """ "1.5M", "12k", "0.25", "2e-05": for an axis."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return format_small(value, 0) if 0 < abs(value) < 1e-2 else f"{value:g}"


def _spread(values: Iterable[float]) -> tuple[float, float]:
    found = list(values) or [0.0, 1.0]
    low, high = min(found), max(found)
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low, high


def _round_ticks(low: float, high: float, count: int) -> dict[float, str]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return {place * step: f"{place * step:.{decimals}f}" for place in range(first, last + 1)}


def _log_ticks(low: float, high: float) -> dict[float, str]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 300 else (1,)
    values = [factor * 10.0**decade for decade in decades for factor in factors]
    return {value: short_number(value) for value in values if low <= value <= high}
