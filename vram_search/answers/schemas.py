"""The JSON schema of every answer, by the command that gives it."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from vram_search.answers.best import BestAnswer
from vram_search.answers.compare import CompareAnswer
from vram_search.answers.dry_run import DryRunAnswer
from vram_search.answers.estimate import ModelEstimate, RecipeEstimate, StudyEstimate
from vram_search.answers.estimate_comparison import EstimateComparison
from vram_search.answers.fit import FitAnswer
from vram_search.answers.importance import ImportanceAnswer
from vram_search.answers.merge import MergeAnswer
from vram_search.answers.next_study import NextAnswer
from vram_search.answers.pareto import ParetoAnswer
from vram_search.answers.queue import QueueAnswer
from vram_search.answers.recipe_without_model import RecipeWithoutModel
from vram_search.answers.run import RunAnswer
from vram_search.answers.samples import SamplesAnswer
from vram_search.answers.show import ShowAnswer
from vram_search.answers.studies import StudySummary
from vram_search.answers.top import TopAnswer
from vram_search.answers.train import TrainAnswer
from vram_search.answers.why import WhyAnswer

DIALECT = "https://json-schema.org/draft/2020-12/schema"

ANSWERS: dict[str, Any] = {
    "best": BestAnswer,
    "compare": CompareAnswer,
    "estimate": ModelEstimate | RecipeEstimate | RecipeWithoutModel | StudyEstimate,
    "estimate-compare": EstimateComparison,
    "fit": FitAnswer,
    "importance": ImportanceAnswer,
    "merge": MergeAnswer,
    "next": NextAnswer,
    "pareto": ParetoAnswer,
    "queue": QueueAnswer,
    "run": RunAnswer,
    "run-dry-run": DryRunAnswer,
    "samples": SamplesAnswer,
    "show": ShowAnswer,
    "studies": list[StudySummary],
    "top": TopAnswer,
    "train": TrainAnswer,
    "why": WhyAnswer,
}
"""Types of the answers; each is the file `docs/schema/NAME.json`."""


def answer_schema(name: str) -> dict[str, Any]:
    """Builds the JSON schema (draft 2020-12) of an answer's `--json`."""
    schema = TypeAdapter(ANSWERS[name]).json_schema(mode="serialization")
    return {"$schema": DIALECT, **_without_defaults(schema)}


def _without_defaults(schema: Any) -> Any:
    """Drops `additionalProperties`: a later version may add keys."""
    if isinstance(schema, list):
        return [_without_defaults(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_defaults(value)
        for key, value in schema.items()
        if not (key == "additionalProperties" and isinstance(value, bool))
    }
