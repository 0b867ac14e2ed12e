"""The rules of strategy `gp` whose figures were chosen on replayed searches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class GpRules:
    """Constants of strategy `gp` (docs/experiments.md).

    Attributes:
        recommended_first: first trials, which earlier searches recommend.
        published_first: published points that follow (replayed with 0, 1, 3 and 7).
        kept_share: share of the configurations at a rung that always continues. On recorded curves
            the best third at 1/9 of a run holds all of the five best.
        new_trial_share: share of a full run that a new trial takes on average, since most are
            stopped early.
        running_trial_bonus: added to the logarithm of the running trial's expected improvement: it
            is stopped for a clearly better use of the time only (replayed with 1, 2 and 3).
    """

    recommended_first: int = 2
    published_first: int = 3
    kept_share: float = 1 / 3
    new_trial_share: float = 0.4
    running_trial_bonus: float = 2.0

    def kept_up_to(self, losses: Sequence[float]) -> float:
        """The highest of the losses at a rung with which a trial always continues."""
        return sorted(losses)[math.ceil(len(losses) * self.kept_share) - 1]
