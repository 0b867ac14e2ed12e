"""Answers `estimate --compare`: the predicted bytes of two configurations, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from vram_search.answers.base import Answer, AnswerPart
from vram_search.answers.points import load_point
from vram_search.answers.training_file import is_recipe, study_workloads
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import predict_plausible
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


def compare_estimates(
    files: tuple[Path, Path], models: Path, hardware: Hardware, card: str | None
) -> EstimateComparison:
    """Compares two studies, recipes or JSON rows.

    Args:
        models: the folder that holds `<model>/config.json` of JSON rows.
        card: slug of a card for studies, instead of their own.

    Raises:
        InputError: a file cannot be used, or the card is not known.
    """
    a, b = (_side(file, models, hardware, card) for file in files)
    totals = [PartDifference(name, a[name], b[name]) for name in _TOTALS if name in a and name in b]
    return EstimateComparison(
        a=str(files[0]),
        b=str(files[1]),
        parts=[_part(part) for part in part_differences(a["parts"], b["parts"])],
        totals=[_part(total) for total in totals],
        a_moment=a["moment"],
        b_moment=b["moment"],
    )


def _part(part: PartDifference) -> PartDifferenceAnswer:
    return PartDifferenceAnswer(
        name=part.name,
        a_bytes=part.a_bytes,
        b_bytes=part.b_bytes,
        difference_bytes=part.difference_bytes,
    )


def _side(file: Path, models: Path, hardware: Hardware, card: str | None) -> dict[str, Any]:
    """The prediction of a JSON row, a recipe, or a study's chosen plan (else its smallest)."""
    if file.suffix in (".json", ".jsonl") and not is_recipe(file):
        point = load_point(file, models)
        if isinstance(point, dict):
            return point
        workload = point.workload
    elif is_recipe(file):
        from vram_search.estimate.recipes.load import load_recipe

        workload = load_recipe(file).workload
    else:
        *_, workloads = study_workloads(file, card)
        workload = next(iter(workloads.values()))
    return predict_plausible(workload, hardware).as_dict()
