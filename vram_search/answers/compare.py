"""Answers `compare`: the differences between two trials, and their effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vram_search.answers.plain import Number, PlainPart, described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.errors import InputError
from vram_search.report.compare import Figure, LossDifference
from vram_search.report.compare import compare as compare_records
from vram_search.report.sentences import compare_sentence
from vram_search.store import Store, StudyRecord, TrialRecord

Pairs = dict[str, tuple[Any, Any]]
"""Values of the first and of the second trial by name."""


@dataclass(frozen=True, kw_only=True)
class DiffersAnswer(PlainPart):
    """Settings that differ, by name, each as the values of both trials."""

    hyperparameters: Pairs
    plan: Pairs = field(metadata=described("Of the memory plan."))
    circumstances: Pairs = field(metadata=described("Outcome, model, rows, seed and device."))


@dataclass(frozen=True, kw_only=True)
class LossAnswer(PlainPart):
    """Values of the study's objective at the same point of both runs."""

    at: str = field(metadata=described("`best checkpoint`, or the share of the run."))
    first: float
    second: float
    standard_error: float | None = field(
        metadata=described(
            "Of the difference, paired per evaluation row; null if the losses per row are "
            "not recorded."
        )
    )
    examples: int | None = field(metadata=described("Evaluation rows that were paired."))
    difference: float = field(metadata=described("Second minus first."))


@dataclass(frozen=True, kw_only=True)
class FigureAnswer(PlainPart):
    """A figure of both trials; null if unknown."""

    origin: str = field(metadata=described("predicted or measured, the same for both."))
    first: Number | None
    second: Number | None
    difference: Number | None = field(metadata=described("Second minus first."))


@dataclass(frozen=True, kw_only=True)
class CompareAnswer(StudyAnswer):
    """Two trials side by side; every difference is second minus first."""

    trials: tuple[int, int] = field(
        metadata=described("Numbers of the first and of the second trial.")
    )
    sentence: str = field(metadata=described("The better trial, by how much, and at what price."))
    differs: DiffersAnswer
    eval_loss: LossAnswer | None = field(
        metadata=described("null if no point exists at which both were evaluated.")
    )
    bytes: dict[str, FigureAnswer] = field(metadata=described("Peaks by name, in bytes."))
    parts: dict[str, FigureAnswer] = field(
        metadata=described("Parts of the peak that differ, in bytes, the largest difference first.")
    )
    seconds: dict[str, FigureAnswer] = field(metadata=described("Seconds by phase."))
    notes: list[str] = field(metadata=described("Sentences on what limits the comparison."))
    knows_hyperparameters: bool = field(
        metadata=described(
            "False if the first trial's hyperparameters are unknown (imported runs)."
        )
    )
    knows_plan: bool = field(metadata=described("False if the first trial has no memory plan."))


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
