"""The rule for repeating a lost trial."""

from __future__ import annotations

from collections.abc import Iterable

from vram_search.store.records import TrialRecord

HANG, HOST_MEMORY = "hang", "host memory"
"""Causes of a loss, in `TrialRecord.error["cause"]`."""
INTERRUPTED = "interrupted"
"""Message of a lost trial that Ctrl-C or SIGTERM ended with its run; that is no fault."""
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
    """Returns True if a lost trial may be run again: a training that hung, only once."""
    by_number = {other.number: other for other in trials}
    earlier = by_number.get(trial.retry_of) if trial.retry_of is not None else None
    if _hung(trial) and earlier is not None and _hung(earlier):
        return False
    return losses_in_a_row(trial, by_number.values()) <= MAX_RETRIES


def _hung(trial: TrialRecord) -> bool:
    return trial.outcome == "lost" and (trial.error or {}).get("cause") == HANG
