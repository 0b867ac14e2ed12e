"""Answers `estimate --compare`: the predicted bytes of two configurations, part by part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from vram_search.answers.base import Answer, AnswerPart
from vram_search.answers.named import find_card
from vram_search.answers.points import load_point
from vram_search.answers.training_file import is_recipe, study_workloads
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import predict_plausible
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.report.parts import PartDifference, part_differences

_TOTALS = ("allocated_bytes", "required_bytes", "process_bytes")


class PartDifferenceAnswer(AnswerPart):
    """Bytes of one part or total on both sides; 0 if a side lacks it."""

    name: str
    a_bytes: int
    b_bytes: int
    difference_bytes: int = Field(description="B minus A.")


class EstimateComparison(Answer):
    """Two configurations side by side."""

    a: str = Field(description="Path of the first file.")
    b: str = Field(description="Path of the second file.")
    parts: list[PartDifferenceAnswer] = Field(description="The largest difference first.")
    totals: list[PartDifferenceAnswer]
    a_moment: str = Field(description="The moment of the first one's peak.")
    b_moment: str = Field(description="The moment of the second one's peak.")
    a_card: str | None = Field(description="Card of the first one; null without a card.")
    b_card: str | None = Field(description="Card of the second one; null without a card.")
    a_spare_bytes: int | None = Field(
        description="Bytes that the first one leaves of its card's budget, margin included; "
        "negative if it does not fit."
    )
    b_spare_bytes: int | None = Field(description="The same of the second one.")


@dataclass(frozen=True)
class _Side:
    predicted: dict[str, Any]
    card: str | None = None
    spare_bytes: int | None = None


def compare_estimates(
    files: tuple[Path, Path], models: Path, card: str | None
) -> EstimateComparison:
    """Compares two studies, recipes or JSON rows.

    Args:
        models: the folder that holds `<model>/config.json` of JSON rows.
        card: name of a card for both; None: each study's own.

    Raises:
        InputError: a file cannot be used, or the card is not known.
    """
    sides = [_side(file, models, card) for file in files]
    a, b = (side.predicted for side in sides)
    totals = [PartDifference(name, a[name], b[name]) for name in _TOTALS if name in a and name in b]
    return EstimateComparison(
        a=str(files[0]),
        b=str(files[1]),
        parts=[_part(part) for part in part_differences(a["parts"], b["parts"])],
        totals=[_part(total) for total in totals],
        a_moment=a["moment"],
        b_moment=b["moment"],
        a_card=sides[0].card,
        b_card=sides[1].card,
        a_spare_bytes=sides[0].spare_bytes,
        b_spare_bytes=sides[1].spare_bytes,
    )


def _part(part: PartDifference) -> PartDifferenceAnswer:
    return PartDifferenceAnswer(
        name=part.name,
        a_bytes=part.a_bytes,
        b_bytes=part.b_bytes,
        difference_bytes=part.difference_bytes,
    )


def _side(file: Path, models: Path, card: str | None) -> _Side:
    """The prediction of a JSON row, a recipe, or a study's chosen plan (else its smallest).

    The card is the named one, else the study's own. A row or a recipe without a card is predicted
    for the card that the predictions were developed on, and has no verdict.
    """
    named = None if card is None else find_card(card)
    if file.suffix.lower() in (".json", ".jsonl") and not is_recipe(file):
        point = load_point(file, models)
        if isinstance(point, dict):
            return _Side(point)
        workload = point.workload
    elif is_recipe(file):
        from vram_search.estimate.recipes.load import load_recipe

        workload = load_recipe(file).workload
    else:
        study, *_, workloads = study_workloads(file, card)
        workload, named = next(iter(workloads.values())), study.card
    if named is None:
        return _Side(predict_plausible(workload, Hardware()).with_replay().as_dict())
    budget = MemoryBudget.of(named, workload.shape, objective=workload.objective)
    predicted = predict_plausible(workload, budget.hardware).with_replay()
    spare = budget.spare_bytes(predicted.required_bytes)
    return _Side(predicted.as_dict(), named.label, spare)
