"""Compares two configurations that were trained with several seeds each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from vram_search.report.sweet_spot import LossSums, paired_standard_error
from vram_search.report.winner import seed_noise

PRIOR_SEEDS = 4
"""Number of seeds that the spread of recorded runs (`seed_noise`) counts for: two or three seeds
alone say little about a spread."""
CLEAR = 0.95
OPEN = 0.8
"""Probabilities from which a rank is called clear, and below which it is called open."""


@dataclass(frozen=True)
class SeedGroup:
    """One configuration's runs.

    Attributes:
        losses: eval_loss of each seed, nats per token.
        loss_sums: summed nats per evaluation row, one list a seed; empty lists if unknown.
    """

    losses: Sequence[float]
    loss_sums: Sequence[LossSums]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.losses)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None for one seed."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else None

    @property
    def mean_sums(self) -> list[float]:
        """Mean over the seeds of each row's summed nats; empty if a row's is unknown."""
        if not all(self.loss_sums) or any(None in sums for sums in self.loss_sums):
            return []
        return [
            statistics.fmean(value or 0.0 for value in row)
            for row in zip(*self.loss_sums, strict=True)
        ]


@dataclass(frozen=True)
class Rank:
    """The winner against a rival.

    Attributes:
        difference: nats per token by which the rival's mean is above the winner's.
        standard_error: of the difference, by seeds and by the choice of evaluation rows.
        probability: that the winner is the better configuration.
    """

    difference: float
    standard_error: float
    probability: float

    @property
    def words(self) -> str:
        """How sure the rank is."""
        if self.probability >= CLEAR:
            return "the winner stays first"
        if self.probability <= 1 - CLEAR:
            return "the other one is better"
        if 1 - OPEN < self.probability < OPEN:
            return "which of the two is better stays open"
        ahead = "the winner" if self.probability > 0.5 else "the other one"
        return f"{ahead} is probably the better one"


def rank(winner: SeedGroup, rival: SeedGroup) -> Rank:
    """Compares the means of two configurations.

    The spread of seeds is pooled over both and over recorded runs (PRIOR_SEEDS). The evaluation
    rows are paired, as in the sweet spot.
    """
    variance = _pooled_variance((winner.losses, rival.losses))
    by_seeds = variance * (1 / len(winner.losses) + 1 / len(rival.losses))
    by_rows = paired_standard_error(rival.mean_sums, winner.mean_sums, winner.mean) or 0.0
    difference = rival.mean - winner.mean
    error = math.sqrt(by_seeds + by_rows**2)
    return Rank(difference, error, 0.5 * (1 + math.erf(difference / error / math.sqrt(2))))


def _pooled_variance(groups: Sequence[Sequence[float]]) -> float:
    known = seed_noise(statistics.fmean(groups[0])) ** 2
    squares = sum(sum((loss - statistics.fmean(group)) ** 2 for loss in group) for group in groups)
    freedom = sum(len(group) - 1 for group in groups)
    return (PRIOR_SEEDS * known + squares) / (PRIOR_SEEDS + freedom)
