"""Reads the YAML file that `estimate` is given: a study, or a recipe of another tool."""

from __future__ import annotations

import difflib
from pathlib import Path

from vram_search.answers.named import find_card
from vram_search.errors import InputError
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.planned_workloads import planned_workloads
from vram_search.estimate.recipes.find_training import holds_training, load_mapping
from vram_search.gpu.this_card import card_here
from vram_search.models import FoundModel, find_model
from vram_search.spec import Hyperparameters, StudySpec, load_study
from vram_search.spec.initial_points import initial_points
from vram_search.tools.detect import tool_of

NEVER_STUDIES = (".json", ".jsonc", ".json5", ".toml")
"""Suffixes of training files that no study has."""


def is_recipe(file: Path) -> bool:
    """Tells whether a file is another tool's, or no study by its keys."""
    suffix = file.suffix.lower()
    try:
        if not file.is_file():
            return False
        if suffix not in (".yaml", ".yml"):
            return holds_training(file)
        data = load_mapping(file)
    except (OSError, InputError):
        return False  # load_study says what is wrong
    if "study" in data:
        return False
    if tool_of(data) is not None:
        return True
    required = {name for name, field in StudySpec.model_fields.items() if field.is_required()}
    # LLaMA-Factory has a `dataset` too.
    of_studies = (required - {"dataset"}) | {"search_space", "card"}
    return bool(data) and (not of_studies & set(data) or _is_foreign({str(key) for key in data}))


def _is_foreign(names: set[str]) -> bool:
    """Tells the settings of a program of its own, with sections `model:` and `training:`, from a
    study without its `study:`."""
    known = set(StudySpec.model_fields)
    if names & (known - {"model", "dataset", "training", "seed"}):
        return False
    foreign = names - known
    is_close = any(difflib.get_close_matches(name, known, n=1, cutoff=0.75) for name in foreign)
    return len(foreign) > 1 and not is_close


def study_workloads(
    file: Path, card: str | None
) -> tuple[StudySpec, FoundModel, Hyperparameters, dict[str, Workload]]:
    """Returns the study, its model, its first published point, and workloads of the chosen and
    smallest plan.

    Raises:
        InputError: the file is faulty, or the card or the model is not known.
    """
    overrides = [] if card is None else [f"card={find_card(card).name}"]
    study = load_study(file, overrides, card_here=card_here)
    found = find_model(study.base.shape or study.base.model_name_or_path or "")
    shape = found.shape()
    hp = initial_points(study.space)[0]
    try:
        workloads = planned_workloads(study, hp, shape, MemoryBudget.of(study.card, shape))
    except ValueError as error:
        raise InputError(f"{file}: search_space.lora_target: {error}") from None
    return study, found, hp, workloads
