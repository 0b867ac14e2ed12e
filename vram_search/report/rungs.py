"""Evaluations at the same point of two trainings, whose step counts may differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vram_search.store import Evaluation, StudyRecord

END = 1.0


def study_rungs(study: StudyRecord) -> tuple[float, ...]:
    """Shares of a run at which the study's trials are compared; none of imported runs."""
    return tuple(study.spec.get("training", {}).get("rungs", ()))


def by_point(evaluations: Iterable[Evaluation], rungs: Sequence[float]) -> dict[float, Evaluation]:
    """Evaluations by the nearest rung, or END; the first counts where two share one.

    Without rungs the share of the run itself, to a hundredth, is the point.
    """
    found: dict[float, Evaluation] = {}
    for evaluation in evaluations:
        found.setdefault(_point(evaluation.fraction, rungs), evaluation)
    return found


def _point(fraction: float, rungs: Sequence[float]) -> float:
    if not rungs or fraction >= END:
        return round(fraction, 2)
    return min(rungs, key=lambda rung: abs(rung - fraction))
