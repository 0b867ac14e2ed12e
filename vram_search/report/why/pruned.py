"""Explains why a trial was stopped at a rung: by the rule of the strategy that decided it."""

from __future__ import annotations

from collections.abc import Sequence

from vram_search.report.rungs import by_point, length_share, study_rungs
from vram_search.report.why.evidence import Evidence, Facts
from vram_search.search.optuna_strategies import compare_with_complete
from vram_search.search.strategy import StoppedTrial
from vram_search.store import TrialRecord
from vram_search.units import percent


def pruned_facts(evidence: Evidence) -> Facts:
    """The rung where it was stopped, those that it was compared with there, and what became of
    its configuration."""
    facts, figures = _at_its_rung(evidence)
    for later in evidence.repeats:
        facts.append(f"restarted, since it was stopped too early: trial {later.number}")
        figures["begun_again_by"] = later.number
    return facts, figures


def _at_its_rung(evidence: Evidence) -> Facts:
    rungs = study_rungs(evidence.study)
    length = length_share(evidence.study, evidence.trial)
    own = by_point(evidence.evaluations.get(evidence.trial.number, ()), rungs, length)
    if not own:
        return [], {}
    point = max(own)
    losses = [e.eval_loss for e in own.values() if e.eval_loss is not None]
    loss = own[point].eval_loss
    if loss is None or not losses:
        return [f"its loss at {percent(point)} of the run was not a finite number"], {"rung": point}
    stopped = StoppedTrial(
        evidence.trial, point, loss, min(losses), _others_at(evidence, point, rungs)
    )
    if evidence.strategy is None:
        return compare_with_complete(stopped)
    return evidence.strategy.explain_pruned(stopped)


def _others_at(
    evidence: Evidence, point: float, rungs: Sequence[float]
) -> list[tuple[TrialRecord, float]]:
    """Trials that had ended when this one was stopped, with their eval_loss at the rung."""
    until, found = evidence.trial.finished_at, []
    for other in evidence.trials:
        if other.number == evidence.trial.number or until is None or other.finished_at is None:
            continue
        length = length_share(evidence.study, other)
        at = by_point(evidence.evaluations.get(other.number, ()), rungs, length).get(point)
        if other.finished_at <= until and at is not None and at.eval_loss is not None:
            found.append((other, at.eval_loss))
    return found
