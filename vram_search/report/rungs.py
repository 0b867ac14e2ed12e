"""Evaluations at the same point of two trainings, whose step counts may differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vram_search.store import Evaluation, StudyRecord, TrialRecord

END = 1.0


def study_rungs(study: StudyRecord) -> tuple[float, ...]:
    """Shares of a run at which the study's trials are compared; none of imported runs."""
    return tuple(study.spec.get("training", {}).get("rungs", ()))


def length_share(study: StudyRecord, trial: TrialRecord) -> float:
    """Epochs of a trial as a share of the longest ones that the study searches; 1 if all are
    equal."""
    lengths = study.spec.get("search_space", {}).get("num_train_epochs")
    epochs = trial.hyperparameters.get("num_train_epochs")
    return float(epochs / max(lengths)) if lengths and epochs else 1.0


def by_point(
    evaluations: Iterable[Evaluation], rungs: Sequence[float], length: float = 1.0
) -> dict[float, Evaluation]:
    """Evaluations by the nearest rung, or END; the first counts where two share one.

    Without rungs the share of the run itself, to a hundredth, is the point.

    Args:
        length: of the trial (`length_share`). Rungs are shares of the longest one.
    """
    found: dict[float, Evaluation] = {}
    for evaluation in evaluations:
        found.setdefault(_point(evaluation.fraction, rungs, length), evaluation)
    return found


def _point(fraction: float, rungs: Sequence[float], length: float) -> float:
    if not rungs or fraction >= END:
        return round(fraction, 2)
    return min(rungs, key=lambda rung: abs(rung - fraction * length))
