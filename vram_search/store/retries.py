"""The rule for repeating a lost trial."""

from __future__ import annotations

from collections.abc import Iterable

from vram_search.store.records import TrialRecord

MAX_RETRIES = 2
"""Retries of one trial; a trial that is lost more often may be what kills the process."""


def losses_in_a_row(trial: TrialRecord, trials: Iterable[TrialRecord]) -> int:
    """Counts a lost trial and the lost trials that it repeats, directly or through others.

    Args:
        trials: trials of the study.
    """
    by_number = {other.number: other for other in trials}
    count, ancestor = 1, trial.retry_of
    while ancestor in by_number and by_number[ancestor].outcome == "lost":
        count, ancestor = count + 1, by_number[ancestor].retry_of
    return count


def may_retry(trial: TrialRecord, trials: Iterable[TrialRecord]) -> bool:
    """Returns True if a lost trial may be run again."""
    return losses_in_a_row(trial, trials) <= MAX_RETRIES
