"""Decides that a search has found what there is to find."""

from __future__ import annotations

from dataclasses import dataclass, field

COMPLETE_BEFORE_STOPPING = 5
LEAST_GAIN = 2e-4
"""Share of the best eval_loss; two seeds of one configuration differ by more."""
PROPOSALS_WITHOUT_GAIN = 15
"""With 5 and with 10, one replayed night in 16 ended too early (docs/experiments.md)."""


@dataclass
class GlobalStopping:
    """Counts proposals in a row that promise no lower eval_loss.

    Attributes:
        complete_before: complete trials that a search needs before it may end.
        least_gain: a smaller expected gain counts as none.
        in_a_row: proposals without gain after which the search ends.
    """

    complete_before: int = COMPLETE_BEFORE_STOPPING
    least_gain: float = LEAST_GAIN
    in_a_row: int = PROPOSALS_WITHOUT_GAIN
    without_gain: int = field(default=0, init=False)

    def is_due(self, complete: int, gain: float) -> bool:
        """True if the search should end; to be called once for each proposal of the sampler.

        Args:
            complete: trials so far.
            gain: `Proposal.gain`.
        """
        may_improve = gain >= self.least_gain or complete < self.complete_before
        self.without_gain = 0 if may_improve else self.without_gain + 1
        return self.without_gain >= self.in_a_row
