"""Answers `top`: the best trials of a study, or all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from vram_search.answers.beside import beside
from vram_search.answers.plain import described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.answers.trial import TrialAnswer, trial_answer
from vram_search.report.limits import constraint_sentence
from vram_search.report.sentences import top_sentence
from vram_search.search.study_constraints import best_trials
from vram_search.store import Store, StudyRecord, TrialRecord

MOST_ROWS = 2**31
"""More trials than a study has; the database's integers end at 2**63."""


@dataclass(frozen=True, kw_only=True)
class TopAnswer(StudyAnswer):
    """Trials of a study."""

    sentence: str = field(metadata=described("The best trial, and how far the second is behind."))
    trials: list[TrialAnswer]
    outcomes: dict[str, int] = field(
        metadata=described(
            "Trials of the study by outcome, 0 included; `running` counts those without one."
        )
    )
    not_ranked: dict[str, int] = field(
        metadata=described("Complete imported runs that are not ranked, by their kind of training.")
    )


def top(store: Store, study: StudyRecord, *, rows: int) -> TopAnswer:
    """Lists the complete trials that keep the study's constraints, best first.

    Args:
        rows: how many at most.
    """
    return these_trials(store, study, best_trials(store, study, min(rows, MOST_ROWS)))


def not_ranked(store: Store, study: StudyRecord) -> dict[str, int]:
    """Counts the complete runs that are no supervised LoRA training, by kind."""
    if not study.is_imported:
        return {}
    kinds = (run.other_training for run in store.trials(study.id) if run.outcome == "complete")
    return dict(Counter(kind for kind in kinds if kind))


def every_trial(store: Store, study: StudyRecord) -> TopAnswer:
    """Lists all trials in the order of their numbers."""
    return these_trials(store, study, store.trials(study.id))


def these_trials(store: Store, study: StudyRecord, trials: Sequence[TrialRecord]) -> TopAnswer:
    """Builds the answer about chosen trials of a study, in their order."""
    words = (_sentence(store, study), constraint_sentence(store, study))
    return TopAnswer(
        **study_fields(study),
        sentence=" ".join(filter(None, words)),
        trials=[trial_answer(trial) for trial in trials],
        outcomes=store.outcome_counts(study.id),
        not_ranked=not_ranked(store, study),
    )


def _sentence(store: Store, study: StudyRecord) -> str:
    best, second = [*best_trials(store, study, 2), None, None][:2]
    rival = beside(store, second, best) if best and second else None
    return top_sentence(best, rival, is_comparable=not study.is_imported)
