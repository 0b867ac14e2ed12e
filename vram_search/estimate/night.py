"""Forecasts how many trials a night holds, from the seconds of one full trial.

A search runs its first trials in full, because there is nothing to compare them with. Later it
stops most of them early. How the time divides is fitted to replayed searches
(`python -m bench.search.forecast`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FIRST_FULL = 4
"""Trials at the start that run in full."""
LATER_FULL_SHARE = 0.25
"""Share of the later time that goes to full trials."""
STOPPED_SHARE = 0.45
"""Time of a trial that is stopped early, as a share of a full one's."""
STOPPED_LEAST, STOPPED_MOST, STOPPED_FURTHER = 0.5, 1.7, 3
"""From STOPPED_LEAST times the forecast of stopped trials to STOPPED_MOST times it and
STOPPED_FURTHER more: how many there are depends on the task. Of 60 replayed nights 55 were inside
(docs/experiments.md)."""
ENOUGH_TRIALS = 12
"""With fewer trials a search rarely finds more than the usual settings."""
_EVALUATION_SHARE = 1 / 3
"""Seconds of an evaluation row, as a share of a training row's: the forward pass alone."""
_PROBE_STEPS = 3
_OTHER_SECONDS = 3.0
"""Planning, saving and checking, per trial."""


@dataclass(frozen=True)
class NightForecast:
    """The forecast of a search in a given time.

    Attributes:
        full_seconds: of a trial that runs to its end.
        seconds: the time that was asked about.
    """

    full_seconds: float
    seconds: float
    full: int
    stopped: int

    @property
    def trials(self) -> int:
        """Full and stopped trials together."""
        return self.full + self.stopped

    @property
    def stopped_range(self) -> tuple[int, int]:
        """The fewest and the most stopped trials to expect."""
        most = round(STOPPED_MOST * self.stopped) + STOPPED_FURTHER
        return int(STOPPED_LEAST * self.stopped), most

    @property
    def is_too_few(self) -> bool:
        """True if so few trials rarely find more than the usual settings."""
        return self.trials < ENOUGH_TRIALS


def trial_seconds(
    step_seconds: float, steps: int, batch_size: int, eval_rows: int, evaluations: int
) -> float:
    """Predicts the seconds of a full trial on a resident base model.

    Args:
        step_seconds: of an optimizer step.
        batch_size: rows of an optimizer step.
        evaluations: over all evaluation rows, the last one included.
    """
    evaluation = _EVALUATION_SHARE * step_seconds * eval_rows / batch_size
    return (steps + _PROBE_STEPS) * step_seconds + evaluations * evaluation + _OTHER_SECONDS


def forecast_night(
    full_seconds: float,
    seconds: float,
    *,
    stopped_seconds: Sequence[float] = (),
    full_so_far: int = 0,
    workers: int = 1,
) -> NightForecast:
    """Forecasts the trials of a night.

    Args:
        full_seconds: of a full trial.
        seconds: time that is left.
        stopped_seconds: of the stopped trials so far. The first ones stop earlier than the later
            ones, so STOPPED_SHARE of a full trial counts as one more of them.
        full_so_far: trials that are complete already.
        workers: trials that run at once.
    """
    first = min(workers * seconds, max(0, FIRST_FULL - full_so_far) * full_seconds)
    later = workers * seconds - first
    full = (first + LATER_FULL_SHARE * later) / full_seconds
    one_stopped = statistics.fmean((*stopped_seconds, STOPPED_SHARE * full_seconds))
    stopped = (1 - LATER_FULL_SHARE) * later / one_stopped
    return NightForecast(full_seconds, seconds, round_down(full), round(stopped))


def round_down(count: float) -> int:
    """A trial that would end after the night is not started."""
    return int(count + 1e-9)


def seconds_of(trials: int, full_seconds: float) -> float:
    """Predicts the seconds of a search of so many finished trials."""
    later_per_full = LATER_FULL_SHARE + (1 - LATER_FULL_SHARE) / STOPPED_SHARE
    return full_seconds * (min(trials, FIRST_FULL) + max(0, trials - FIRST_FULL) / later_per_full)


def share_that_fits(trials: int, full_seconds: float, seconds: float) -> float:
    """Returns the share to which full trials must be shortened so that `trials` fit; 0 to 1.

    Planning, saving and checking take the same time in a shortened trial.
    """
    trained_seconds = seconds / seconds_of(trials, 1.0) - _OTHER_SECONDS
    share = trained_seconds / max(full_seconds - _OTHER_SECONDS, 1e-9)
    return min(1.0, max(0.0, share))
