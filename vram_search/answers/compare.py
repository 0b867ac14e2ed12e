"""Answers `compare`: the differences between two trials, and their effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from vram_search.answers.base import AnswerPart, Number
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.errors import InputError
from vram_search.report.compare import Figure, LossDifference
from vram_search.report.compare import compare as compare_records
from vram_search.report.sentences import compare_sentence
from vram_search.store import Store, StudyRecord, TrialRecord

Pairs = dict[str, tuple[Any, Any]]
"""Values of the first and of the second trial by name."""


class DiffersAnswer(AnswerPart):
    """Settings that differ, by name, each as the values of both trials."""

    hyperparameters: Pairs
    plan: Pairs = Field(description="Of the memory plan.")
    circumstances: Pairs = Field(description="Outcome, model, rows, seed and device.")


class LossAnswer(AnswerPart):
    """Values of the study's objective at the same point of both runs."""

    at: str = Field(description="`best checkpoint`, or the share of the run.")
    first: float
    second: float
    standard_error: float | None = Field(
        description="Of the difference, paired per evaluation row; null if the losses per row are "
        "not recorded."
    )
    examples: int | None = Field(description="Evaluation rows that were paired.")
    difference: float = Field(description="Second minus first.")


class FigureAnswer(AnswerPart):
    """A figure of both trials; null if unknown."""

    origin: str = Field(description="predicted or measured, the same for both.")
    first: Number | None
    second: Number | None
    difference: Number | None = Field(description="Second minus first.")


class CompareAnswer(StudyAnswer):
    """Two trials side by side; every difference is second minus first."""

    trials: tuple[int, int] = Field(description="Numbers of the first and of the second trial.")
    sentence: str = Field(description="The better trial, by how much, and at what price.")
    differs: DiffersAnswer
    eval_loss: LossAnswer | None = Field(
        description="null if no point exists at which both were evaluated."
    )
    bytes: dict[str, FigureAnswer] = Field(description="Peaks by name, in bytes.")
    parts: dict[str, FigureAnswer] = Field(
        description="Parts of the peak that differ, in bytes, the largest difference first."
    )
    seconds: dict[str, FigureAnswer] = Field(description="Seconds by phase.")
    notes: list[str] = Field(description="Sentences on what limits the comparison.")
    knows_hyperparameters: bool = Field(
        description="False if the first trial's hyperparameters are unknown (imported runs)."
    )
    knows_plan: bool = Field(description="False if the first trial has no memory plan.")


def compare(
    store: Store, study: StudyRecord, first: TrialRecord, second: TrialRecord
) -> CompareAnswer:
    """Compares two trials of a study.

    Raises:
        InputError: both are the same trial.
    """
    if first.number == second.number:
        raise InputError(f"both are trial {first.number}", "name two different trials")
    evaluations = (store.evaluations(first.id), store.evaluations(second.id))
    found = compare_records(study, first, second, evaluations)
    return CompareAnswer(
        **study_fields(study),
        trials=(first.number, second.number),
        sentence=compare_sentence(found, first.number, second.number),
        differs=DiffersAnswer(
            hyperparameters=found.hyperparameters,
            plan=found.plan,
            circumstances=found.circumstances,
        ),
        eval_loss=None if found.loss is None else _loss(found.loss),
        bytes=_by_name(found.bytes),
        parts=_by_name(found.parts),
        seconds=_by_name(found.seconds),
        notes=found.notes,
        knows_hyperparameters=any(value is not None for value in first.hyperparameters.values()),
        knows_plan=any(value is not None for value in (first.plan or {}).values()),
    )


def _loss(loss: LossDifference) -> LossAnswer:
    return LossAnswer(**vars(loss), difference=loss.difference)


def _by_name(figures: Sequence[Figure]) -> dict[str, FigureAnswer]:
    return {
        figure.name: FigureAnswer(
            origin=figure.origin,
            first=figure.first,
            second=figure.second,
            difference=figure.difference,
        )
        for figure in figures
    }
