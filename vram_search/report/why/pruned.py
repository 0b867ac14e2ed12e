"""Why a trial was stopped at a rung: by the rule of the strategy that decided it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from vram_search.report.rungs import by_point, study_rungs
from vram_search.report.why.evidence import Evidence, Facts
from vram_search.store import Evaluation, TrialRecord

KEPT_SHARE = 1 / 3
"""Of the configurations at a rung, that `gp` lets go on in any case (`search/advisor.py`)."""


def pruned_facts(evidence: Evidence) -> Facts:
    """The rung where it was stopped, those that it was compared with there, and what became of
    its configuration."""
    facts, figures = _at_its_rung(evidence)
    for later in evidence.repeats:
        facts.append(f"begun again, since it was stopped too early: trial {later.number}")
        figures["begun_again_by"] = later.number
    return facts, figures


def _at_its_rung(evidence: Evidence) -> Facts:
    rungs = study_rungs(evidence.study)
    own = by_point(evidence.evaluations.get(evidence.trial.number, ()), rungs)
    if not own:
        return [], {}
    point = max(own)
    losses = [e.eval_loss for e in own.values() if e.eval_loss is not None]
    loss = own[point].eval_loss
    if loss is None or not losses:
        return [f"its loss at {point:.0%} of the run was not a finite number"], {"rung": point}
    if evidence.strategy == "gp" and not evidence.study.is_imported:
        return _by_the_best_third(evidence, point, loss, rungs)
    return _by_the_median(evidence, point, min(losses), rungs)


def _by_the_best_third(
    evidence: Evidence, point: float, loss: float, rungs: Sequence[float]
) -> Facts:
    """`gp`: every configuration that had reached the rung counts once."""
    others = {
        _configuration(other): at.eval_loss
        for other, at in _others_at(evidence, point, rungs)
        if other.outcome != "lost" and at.eval_loss is not None
    }
    others.pop(_configuration(evidence.trial), None)
    ranked = sorted([loss, *others.values()])
    best_third = ranked[math.ceil(len(ranked) * KEPT_SHARE) - 1]
    lower = sum(other < loss for other in ranked)
    facts = [
        f"its eval_loss at {point:.0%} of the run was {loss:.4f}",
        f"of {len(ranked)} configurations that had come so far, itself included, {lower} had "
        f"been lower there; the best third ended at {best_third:.4f}",
    ]
    if loss > best_third:
        facts.append(
            "at a rung, the best third goes on; it was not among them, and another configuration "
            "promised clearly more improvement for the time"
        )
    figures: dict[str, Any] = {
        "rung": point,
        "rung_eval_loss": loss,
        "compared_configurations": len(ranked),
        "lower_configurations": lower,
        "best_third": best_third,
    }
    return facts, figures


def _by_the_median(
    evidence: Evidence, point: float, lowest: float, rungs: Sequence[float]
) -> Facts:
    """`tpe` and `random`: Optuna's pruner compares with complete trials."""
    facts = [f"its lowest eval_loss up to {point:.0%} of the run was {lowest:.4f}"]
    figures: dict[str, Any] = {"rung": point, "lowest_eval_loss": lowest}
    others = [
        at.eval_loss
        for other, at in _others_at(evidence, point, rungs)
        if other.outcome == "complete" and at.eval_loss is not None
    ]
    if others:
        middle, better = statistics.median(others), sum(loss < lowest for loss in others)
        facts.append(
            f"of trials that were complete by then, {better} of {len(others)} had been lower "
            f"there: median {middle:.4f}, lowest {min(others):.4f}"
        )
        if lowest > middle and not evidence.study.is_imported:
            facts.append("at a rung, what is above the median of the complete trials is stopped")
        figures |= {"compared_trials": len(others), "lower_trials": better, "median": middle}
    return facts, figures


def _others_at(
    evidence: Evidence, point: float, rungs: Sequence[float]
) -> list[tuple[TrialRecord, Evaluation]]:
    """Trials that had ended when this one was stopped, with their evaluation at the rung."""
    until, found = evidence.trial.finished_at, []
    for other in evidence.trials:
        if other.number == evidence.trial.number or until is None or other.finished_at is None:
            continue
        at = by_point(evidence.evaluations.get(other.number, ()), rungs).get(point)
        if other.finished_at <= until and at is not None:
            found.append((other, at))
    return found


def _configuration(trial: TrialRecord) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(trial.hyperparameters.items()))
