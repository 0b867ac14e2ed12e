"""Writes a commented study for a person who has a model, rows and a number of hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_search.answers.study_text import flow_text, with_overrides
from vram_search.data import load_rows
from vram_search.errors import InputError
from vram_search.estimate import plans, settle_plan, smallest
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.step_time import CHARACTERS_PER_TOKEN
from vram_search.models import find_shape
from vram_search.report.words import plan_words
from vram_search.spec.initial_points import initial_points
from vram_search.spec.load import apply_override, load_study
from vram_search.spec.not_trained import check_has_class, check_trainable
from vram_search.units import format_bytes

CUTOFFS = (256, 512, 1024, 2048, 4096)
_COVERED = 0.95


@dataclass(frozen=True)
class StartingStudy:
    """The answers to the questions of `init`.

    Attributes:
        card: a card's name, or auto for the GPU in this machine.
        overrides: further keys, as texts "key.inner=value".
    """

    name: str
    model: str
    data: str
    hours: float
    card: str = "auto"
    overrides: tuple[str, ...] = ()

    def text(self, cutoff_len: int) -> str:
        """The study file.

        Args:
            cutoff_len: token limit of the training rows.

        Raises:
            InputError: an override is none.
        """
        return with_overrides(self._plain_text(cutoff_len), self.overrides)

    def _plain_text(self, cutoff_len: int) -> str:
        return f"""\
# Check it: vram-search run THIS-FILE --dry-run      Start it: vram-search run THIS-FILE
study: {flow_text(self.name)}
model:
  model_name_or_path: {flow_text(self.model)}
dataset:
  train: {flow_text(self.data)}
card: {flow_text(self.card)}             # auto: the GPU in this machine
search_space:            # only what you are not sure of; a single value is fixed
  learning_rate: {{min: 3.0e-5, max: 1.0e-3}}   # decides most of the loss
  lora_target: [qkvo, all]
  lora_rank: [8, 16, 32]
  cutoff_len: [{cutoff_len}]         # tokens; `vram-search data THIS-FILE` counts your rows
  batch_size: [4, 8, 16]   # effective; micro-batches are chosen for you
  optim: [adamw_8bit]
budget:
  hours: {self.hours:g}
"""


def cutoff_for(data: str, folder: Path, overrides: Sequence[str] = ()) -> tuple[int, int]:
    """Returns a cutoff_len that cuts few rows, and the number of rows, from their characters.

    Args:
        overrides: keys of the study, of which those of the data set count.

    Raises:
        InputError: the rows cannot be read.
    """
    from pydantic import ValidationError

    from vram_search.spec.base import plain_message
    from vram_search.spec.dataset import DEFAULT_SEED, DatasetSpec

    study: dict[str, Any] = {"dataset": {"train": data}}
    for override in overrides:
        apply_override(study, override)
    try:
        dataset = DatasetSpec.model_validate(study["dataset"], context={"folder": folder})
    except ValidationError as error:
        first = error.errors()[0]
        key, message = ".".join(map(str, first["loc"])), plain_message(first)
        if key not in ("", "train"):
            known = ", ".join(DatasetSpec.model_fields)
            raise InputError(
                f"--set dataset.{key}: {message}", f"keys of a data set: {known}"
            ) from None
        raise InputError(
            f"--data {data}: {message}", "name a file, a folder or a hub name"
        ) from None
    rows = load_rows(dataset, DEFAULT_SEED)
    sizes = sorted(sum(len(text) for _, text in row.messages) for row in rows.train)
    tokens = sizes[int(_COVERED * (len(sizes) - 1))] / CHARACTERS_PER_TOKEN
    cutoff_len = next((cutoff for cutoff in CUTOFFS if cutoff >= tokens), CUTOFFS[-1])
    return cutoff_len, len(rows.train)


def fit_words(file: Path, card_here: object) -> str:
    """Says whether the study's first configuration fits its card.

    Raises:
        InputError: the study cannot be used as written.
    """
    study = load_study(file, card_here=card_here)  # type: ignore[arg-type]
    shape = find_shape(study.base.shape or study.base.model_name_or_path or "")
    check_trainable(shape)
    check_has_class(shape)
    budget = MemoryBudget.of(study.card, shape)
    point = initial_points(study.space)[0]
    candidates = plans(shape, point, study.card, study.plan, eval_cutoff_len=study.eval_cutoff_len)
    chosen = settle_plan(candidates, budget.budget_bytes, budget.margin)
    if chosen is None:
        least = format_bytes(smallest(candidates).settled().estimate.required_bytes)
        return (
            f"does NOT fit {study.card.label}: {least} needed at least, "
            f"{format_bytes(budget.budget_bytes)} there: take a smaller model or cutoff_len"
        )
    needed = format_bytes(chosen.estimate.required_bytes)
    return (
        f"fits {study.card.label}: {needed} of {format_bytes(budget.budget_bytes)} needed with "
        f"{plan_words(chosen.plan.model_dump())}"
    )
