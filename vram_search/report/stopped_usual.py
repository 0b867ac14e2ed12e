"""The trial with the usual settings beside the best one, if the search stopped it early."""

from __future__ import annotations

from dataclasses import replace

from vram_search.report.compare import compare
from vram_search.report.winner import StoppedUsual, Winner, has_usual_settings
from vram_search.store import Store, StudyRecord


def with_stopped_usual(store: Store, study: StudyRecord, winner: Winner) -> Winner:
    """Adds the stopped trial, unless a complete one has the usual settings."""
    if winner.usual is not None:
        return winner
    best = winner.spot.best
    stopped = (t for t in store.trials(study.id, outcomes=["pruned"]) if has_usual_settings(t))
    usual = next(stopped, None)
    if usual is None:
        return winner
    evaluations = store.evaluations(best.id), store.evaluations(usual.id)
    loss = compare(study, best, usual, evaluations).loss
    if loss is None:
        return winner
    return replace(winner, stopped_usual=StoppedUsual(usual.number, loss.at, loss.difference))
