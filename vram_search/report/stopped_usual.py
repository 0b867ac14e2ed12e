"""The trial with the usual settings beside the best one, if the search stopped it early."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from vram_search.report.compare import loss_difference
from vram_search.report.winner import StoppedUsual, Winner, has_usual_settings
from vram_search.store import Store, StudyRecord, TrialRecord


def with_stopped_usual(
    store: Store, study: StudyRecord, winner: Winner, trials: Iterable[TrialRecord]
) -> Winner:
    """Adds the stopped trial, unless a complete one has the usual settings.

    Args:
        trials: of the study; they are read up to the stopped one.
    """
    if winner.usual is not None:
        return winner
    stopped = (t for t in trials if t.outcome == "pruned" and has_usual_settings(t))
    usual = next(stopped, None)
    if usual is None:
        return winner
    best = winner.spot.best
    evaluations = store.evaluations(best.id), store.evaluations(usual.id)
    loss = loss_difference(study, best, usual, evaluations)
    if loss is None:
        return winner
    return replace(winner, stopped_usual=StoppedUsual(usual.number, loss.at, loss.difference))
