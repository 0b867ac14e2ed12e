"""Answers `importance`: the share of the spread of eval_loss that each hyperparameter explains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vram_search.answers.plain import PlainPart, described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.errors import InputError
from vram_search.report.importance import FEWEST_TRIALS, Group, importances
from vram_search.report.sentences import importance_sentence
from vram_search.store import Store, StudyRecord
from vram_search.units import counted


@dataclass(frozen=True, kw_only=True)
class GroupAnswer(PlainPart):
    """Trials that share a value, or a range of values, of one hyperparameter."""

    group: str = field(metadata=described("The value or the range, for a label."))
    low: Any = field(metadata=described("Smallest value."))
    high: Any = field(metadata=described("Largest value."))
    trials: int = field(metadata=described("How many trials."))
    median_eval_loss: float = field(
        metadata=described(
            "Median of the study's objective; its name dates from studies of eval_loss."
        )
    )


@dataclass(frozen=True, kw_only=True)
class ImportanceItem(PlainPart):
    """One hyperparameter."""

    hyperparameter: str
    share: float = field(
        metadata=described("Epsilon squared on the ranks of the objective, 0 to 1.")
    )
    groups: list[GroupAnswer] = field(metadata=described("In the order of the values."))


@dataclass(frozen=True, kw_only=True)
class ImportanceAnswer(StudyAnswer):
    """Main effects of the hyperparameters that varied, the largest first."""

    trials: int = field(metadata=described("Complete trials that were counted."))
    sentence: str = field(metadata=described("The settings that decided, and those that did not."))
    importances: list[ImportanceItem]


def importance(store: Store, study: StudyRecord) -> ImportanceAnswer:
    """Computes how much of the spread of eval_loss each hyperparameter explains by itself.

    Raises:
        InputError: too few trials are complete, or no hyperparameter differs between them.
    """
    trials = store.top_trials(study.id)
    if len(trials) < FEWEST_TRIALS:
        complete = counted(len(trials), "complete trial", "complete trials")
        raise InputError(
            f"study {study.name} has {complete} with "
            f"{study.ranked_by.name}: too few to say what mattered",
            f"{FEWEST_TRIALS} are needed; `vram-search compare` compares two trials",
        )
    found = importances(trials)
    if not found:
        raise InputError(
            f"no hyperparameter differs between the complete trials of study {study.name}",
            "give its search_space more than one value",
        )
    items = [
        ImportanceItem(
            hyperparameter=item.name,
            share=item.share,
            groups=[_group(group) for group in item.groups],
        )
        for item in found
    ]
    return ImportanceAnswer(
        **study_fields(study),
        trials=len(trials),
        sentence=importance_sentence(found, study.ranked_by.name),
        importances=items,
    )


def _group(group: Group) -> GroupAnswer:
    return GroupAnswer(
        group=group.label,
        low=group.low,
        high=group.high,
        trials=len(group.losses),
        median_eval_loss=group.median_loss,
    )
