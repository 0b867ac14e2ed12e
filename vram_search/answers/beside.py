"""Compares a trial with the best of its study, with the standard error of their difference."""

from __future__ import annotations

from vram_search.report.sweet_spot import Contender, beside_best, best_loss_sums
from vram_search.store import Store, TrialRecord


def beside(store: Store, trial: TrialRecord, best: TrialRecord) -> Contender:
    """Reads the losses per evaluation row of two trials, and compares them.

    Raises:
        StoreError: the database cannot be read.
    """
    sums = {
        one.number: found
        for one in (trial, best)
        if (found := best_loss_sums(one, store.evaluations(one.id))) is not None
    }
    return beside_best(trial, best, sums)
