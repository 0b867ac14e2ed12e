"""The limits of trials and time after which a search ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from vram_search.store import Outcome

COMPLETE: Outcome = "complete"
FINISHED: tuple[Outcome, ...] = ("complete", "pruned", "oom", "diverged")
"""Outcomes that count against a budget of trials."""


@dataclass(frozen=True)
class StopRule:
    """The limits after which no further trial is started.

    Args:
        trials: number of finished trials in the study, including those of earlier runs.
        until: a time of day, in seconds since the epoch. A trial that is expected to end later is
            not started.
        ends_at: the end of a duration, as `time.monotonic` counts: whoever sets the clock does
            not make the night longer. Waiting in the queue moves it.
    """

    trials: int | None
    until: float | None = None
    ends_at: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the earlier limit of time, negative after it; None without one."""
        left = []
        if self.until is not None:
            left.append(self.until - time.time())
        if self.ends_at is not None:
            left.append(self.ends_at - time.monotonic())
        return min(left, default=None)

    @property
    def options(self) -> list[str]:
        """The options of `vram-search worker` that stand for what is left of this rule."""
        options = [] if self.trials is None else ["--trials", str(self.trials)]
        if (left := self.seconds_left) is not None:
            options += ["--hours", f"{max(left, 1.0) / 3600:.6f}"]
        return options

    def for_seconds(self, seconds: float | None) -> StopRule:
        """Returns the rule with a duration that begins now; None leaves it as it is."""
        return self if seconds is None else replace(self, ends_at=time.monotonic() + seconds)

    def after_waiting(self, seconds: float) -> StopRule:
        """Returns the rule for a run that has waited in the queue."""
        return self if self.ends_at is None else replace(self, ends_at=self.ends_at + seconds)


ENDLESS = StopRule(None)
