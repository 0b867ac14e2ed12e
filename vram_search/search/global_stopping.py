"""When a search has found what there is to find."""

from __future__ import annotations

from dataclasses import dataclass

COMPLETE_BEFORE = 5
LEAST_GAIN = 2e-4
"""Share of the best eval_loss; two seeds of one configuration differ by more."""
IN_A_ROW = 15
"""With 5 and with 10, one replayed night in 16 ended too early (docs/experiments.md)."""


@dataclass
class GlobalStopping:
    """Counts proposals in a row of which none promises a better eval_loss."""

    without_gain: int = 0

    def is_due(self, complete: int, gain: float) -> bool:
        """To be asked once of each proposal that the search itself made.

        Args:
            complete: trials so far.
            gain: `Proposal.gain`.
        """
        hopes = gain >= LEAST_GAIN or complete < COMPLETE_BEFORE
        self.without_gain = 0 if hopes else self.without_gain + 1
        return self.without_gain >= IN_A_ROW
