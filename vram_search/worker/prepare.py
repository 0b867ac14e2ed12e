"""Prepares a search: reads rows, puts the model on disk, reads its shape, checks targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vram_search.data import Rows, load_rows
from vram_search.errors import Fault, FaultyFileError
from vram_search.estimate import check_card_holds_base
from vram_search.models import FoundModel, find_model
from vram_search.spec import ModelShape, StudySpec
from vram_search.spec.base_storage import (
    expert_words,
    frozen_part_words,
    predicted_storage,
)
from vram_search.spec.checkpoint import refused
from vram_search.spec.study import ModelSpec
from vram_search.worker.answers import check_answers
from vram_search.worker.constraints import check_constraints
from vram_search.worker.gguf_base import converted_gguf


@dataclass(frozen=True)
class Prepared:
    """A study with its model and data available."""

    study: StudySpec
    rows: Rows
    shape: ModelShape
    model_name_or_path: str
    """The model to load: a folder, a hub name or, for random weights, a config."""
    tokenizer: str | None
    """The tokenizer's folder or hub name; None for the byte tokenizer."""

    def model_record(self) -> dict[str, Any]:
        """Returns the model's entry in the study's record."""
        return {
            "name": self.study.model.label,
            "model_name_or_path": self.model_name_or_path,
            "model_type": self.shape.model_type,
            "hidden_size": self.shape.hidden_size,
            "parameters": self.shape.parameters,
        }


def prepare(study: StudySpec, note: Callable[[str], None]) -> Prepared:
    """Checks everything that can be checked without a GPU, and converts a GGUF file once.

    Raises:
        InputError: rows, model, targets or card cannot be used as written.
    """
    rows = load_rows(study.dataset, study.seed)
    for text in rows.notes:
        note(f"note: {text}")
    check_answers(study, rows)
    name_or_path, tokenizer = _locate_model(study.model, note)
    found = find_model(study.model.shape or name_or_path)
    if found.note:
        note(found.note)
    shape = _of_trained_weights(study.model, found)
    _check_targets(study, shape)
    _check_initial_weights(study, shape)
    check_card_holds_base(shape, study.card)
    if experts := expert_words(predicted_storage(shape)):
        note(experts)
    if frozen := frozen_part_words(shape.tree):
        note(frozen)
    check_constraints(study, len(rows.train), shape)
    return Prepared(study, rows, shape, name_or_path, tokenizer)


def _locate_model(model: ModelSpec, note: Callable[[str], None]) -> tuple[str, str | None]:
    if model.weights == "random":
        named = find_model(model.shape or model.model_name_or_path or "")
        return str(named.config), model.tokenizer
    assert model.model_name_or_path is not None, "ModelSpec holds this"
    name_or_path = model.model_name_or_path
    if name_or_path.endswith(".gguf"):
        name_or_path = str(converted_gguf(Path(name_or_path), note))
    return name_or_path, model.tokenizer or name_or_path


def _of_trained_weights(model: ModelSpec, found: FoundModel) -> ModelShape:
    """Returns the shape as a search loads it. Random weights are quantised like plain ones.

    Raises:
        InputError: the weights are quantised already, and not in bitsandbytes' 4 bits.
    """
    shape = found.shape()
    if model.weights == "random":
        return replace(shape, checkpoint=None)
    if shape.checkpoint is not None and not shape.checkpoint.is_trained:
        raise refused(model.label, shape.checkpoint.title)
    if found.checkpoint not in ("", "bnb-4bit"):
        raise refused(model.label, found.checkpoint)
    return shape


def _check_initial_weights(study: StudySpec, shape: ModelShape) -> None:
    """Refuses a rank above a layer's smaller side: the base's weights have no such part."""
    methods = [name for name in study.search_space.init_lora_weights or () if name != "default"]
    if not methods:
        return
    highest = max(study.search_space.lora_rank)
    for target in study.search_space.lora_target:
        groups = shape.lora_layers(target).groups
        least = min(min(group.in_features, group.out_features) for group in groups)
        if highest > least:
            problem = f"{methods[0]} takes a rank of at most {least} out of the layers of {target}"
            remedy = f"lora_rank up to {least}, or init_lora_weights: default"
            fault = Fault("search_space.lora_rank", problem, highest, remedy)
            raise FaultyFileError(f"study {study.study}", [fault])


def _check_targets(study: StudySpec, shape: ModelShape) -> None:
    faults = []
    for index, target in enumerate(study.search_space.lora_target):
        try:
            shape.lora_layers(target)
        except ValueError as error:
            faults.append(Fault(f"search_space.lora_target[{index}]", str(error), target))
    if faults:
        raise FaultyFileError(f"study {study.study}", faults)
