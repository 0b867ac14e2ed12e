"""Prepares a search: reads rows, puts the model on disk, reads its shape, checks targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vram_search.data import Rows, load_rows
from vram_search.data.example import LEARNT_ROLES
from vram_search.errors import Fault, FaultyFileError, InputError
from vram_search.estimate import check_card_holds_base, plans
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.models import FoundModel, find_model
from vram_search.spec import ModelShape, StudySpec
from vram_search.spec.base_storage import frozen_part_words, unquantised_words
from vram_search.spec.checkpoint import refused
from vram_search.spec.families import MODELLED
from vram_search.spec.model import ModelSpec
from vram_search.spec.not_trained import check_has_class, check_trainable
from vram_search.spec.objective import BITS_PER_BYTE
from vram_search.units import format_bytes
from vram_search.worker.answers import check_answers
from vram_search.worker.constraints import check_constraints, smallest_points
from vram_search.worker.gguf_base import converted_gguf
from vram_search.worker.step_time import guessed_row_tokens


@dataclass(frozen=True)
class Prepared:
    """A study with its model and data available.

    Of a study of several base models, `study`, `shape`, `model_name_or_path` and `tokenizer` are
    those of the first that fits; `each` has a view for every model.
    """

    study: StudySpec
    rows: Rows
    shape: ModelShape
    model_name_or_path: str
    """The model to load: a folder, a hub name or, for random weights, a config."""
    tokenizer: str | None
    """The tokenizer's folder or hub name; None for the byte tokenizer."""
    name: str | None = None
    """The short name of the model, in a view of one model of several."""
    left_out: str = ""
    """Why the model fits the card with no plan; empty if it may fit."""
    other_tokenizers: tuple[str | None, ...] = ()
    """Tokenizers of the study's other models, if they differ."""
    views: tuple[Prepared, ...] = ()
    """One for each base model of a study of several; those that fit come first."""

    @cached_property
    def row_tokens(self) -> tuple[int, ...]:
        """Lengths of the training rows in tokens, guessed from their characters."""
        return guessed_row_tokens(self.rows)

    @property
    def each(self) -> tuple[Prepared, ...]:
        """The study seen from each of its base models."""
        return self.views or (self,)

    def of(self, hyperparameters: Mapping[str, Any]) -> Prepared:
        """Returns the study seen from the base model of a trial."""
        return next((one for one in self.each if one.owns(hyperparameters)), self)

    def owns(self, hyperparameters: Mapping[str, Any]) -> bool:
        """True if a trial with these hyperparameters has this base model."""
        return self.name is None or hyperparameters.get("model") == self.name

    def model_record(self) -> dict[str, Any]:
        """Returns the models' entry in the study's record."""
        if self.views:
            by_name = {one.name: one for one in self.views}
            ordered = [by_name[name] for name in self.study.model_names]
            return {
                "name": ", ".join(self.study.model_names),
                "models": [one.model_record() for one in ordered],
            }
        return {
            "name": self.name or self.study.base.label,
            "model_name_or_path": self.model_name_or_path,
            "model_type": self.shape.model_type,
            "hidden_size": self.shape.hidden_size,
            "parameters": self.shape.parameters,
            **({"other_tokenizers": self.other_tokenizers} if self.other_tokenizers else {}),
        }


def prepare(study: StudySpec, note: Callable[[str], None]) -> Prepared:
    """Checks everything that can be checked without a GPU, and converts a GGUF file once.

    Raises:
        InputError: rows, models, targets or card cannot be used as written.
    """
    rows = load_rows(study.dataset, study.seed)
    for text in rows.notes:
        note(f"note: {text}")
    check_answers(study, rows)
    if study.ranked_by.name == BITS_PER_BYTE:
        _check_text(study, rows)
    if study.model_names:
        return _prepare_several(study, rows, note)
    name_or_path, tokenizer = _locate_model(study.base, note)
    shape = _shape(study.base, name_or_path, note)
    _check_targets(study, {"": shape})
    _check_initial_weights(study, shape)
    _check_packing(study, {"": shape})
    check_card_holds_base(shape, study.card)
    if kept := unquantised_words(shape):
        note(kept)
    if "all" in study.search_space.lora_target and shape.left_out_words:
        note(shape.left_out_words)
    if frozen := frozen_part_words(shape.tree):
        note(frozen)
    check_constraints(study, guessed_row_tokens(rows), shape)
    return Prepared(study, rows, shape, name_or_path, tokenizer)


def _prepare_several(study: StudySpec, rows: Rows, note: Callable[[str], None]) -> Prepared:
    """Prepares each base model. One that cannot fit the card is neither loaded nor converted."""
    shapes: dict[str, ModelShape] = {}
    for one in study.models:
        needs_conversion = one.shape is None and (one.model_name_or_path or "").endswith(".gguf")
        named = _locate_model(one, note)[0] if needs_conversion else one.model_name_or_path
        shapes[one.short_name] = _shape(one, named or "", note)
    _check_targets(study, shapes)
    for name, shape in shapes.items():
        _check_initial_weights(study, shape)
        if "all" in study.search_space.lora_target and shape.left_out_words:
            note(f"model {name}: {shape.left_out_words}")
    _check_packing(study, shapes)
    row_tokens = guessed_row_tokens(rows)
    fitting: list[Prepared] = []
    left_out: list[Prepared] = []
    for name, shape in shapes.items():
        view = study.for_model(name)
        if why := _why_left_out(view, row_tokens, shape):
            note(f"model {name} is left out: {why}")
            raw = view.base.model_name_or_path or str(view.base.shape)
            left_out.append(Prepared(view, rows, shape, raw, view.base.tokenizer, name, why))
        else:
            where, tokenizer = _locate_model(view.base, note)
            fitting.append(Prepared(view, rows, shape, where, tokenizer, name))
    if not fitting:
        raise InputError(
            f"no base model of study {study.study} can be searched on {study.card.label}; "
            f"{left_out[0].name}: {left_out[0].left_out}",
            "list a smaller model, choose a larger card, or change the constraints",
        )
    tokenizers = list(dict.fromkeys(one.tokenizer for one in fitting))
    views = [
        replace(one, other_tokenizers=tuple(t for t in tokenizers if t != one.tokenizer))
        for one in fitting
    ]
    first = views[0]
    return Prepared(
        study,
        rows,
        first.shape,
        first.model_name_or_path,
        first.tokenizer,
        views=(*views, *left_out),
    )


def _why_left_out(study: StudySpec, row_tokens: Sequence[int], shape: ModelShape) -> str:
    """Returns why no point of the search space fits the card with this model; empty if one may."""
    try:
        check_card_holds_base(shape, study.card)
        check_constraints(study, row_tokens, shape)
    except InputError as error:
        return error.message
    budget_bytes = MemoryBudget.of(study.card, shape).budget_bytes
    least = min(
        planned.estimate.required_bytes
        for point in smallest_points(study)
        for planned in plans(
            shape, point, study.card, study.plan, eval_cutoff_len=study.eval_cutoff_len
        )
    )
    if least <= budget_bytes:
        return ""
    return (
        f"its smallest plan needs {format_bytes(least)}, the card leaves "
        f"{format_bytes(budget_bytes)}"
    )


def _check_text(study: StudySpec, rows: Rows) -> None:
    """Refuses bits per byte if no evaluation row has an answer to count the bytes of."""
    texts = (t for row in rows.eval for role, t in row.messages if role in LEARNT_ROLES)
    if not any(text.strip() for text in texts):
        raise InputError(
            f"study {study.study}: objective bits_per_byte counts the bytes of the answers, and no "
            "evaluation row has an answer with text",
            "evaluate on rows with answers (dataset.eval), or set objective: eval_loss",
        )


def _shape(model: ModelSpec, name_or_path: str, note: Callable[[str], None]) -> ModelShape:
    found = find_model(model.shape or name_or_path)
    if found.note:
        note(found.note)
    shape = _of_trained_weights(model, found)
    check_trainable(shape)
    check_has_class(shape)
    return shape


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


def _check_packing(study: StudySpec, shapes: Mapping[str, ModelShape]) -> None:
    """Refuses packing for a model that is not known to keep joined rows apart.

    Args:
        shapes: by the model's short name; the name is empty if the study has one model.
    """
    if True not in (study.search_space.packing or ()):
        return
    faults = [
        Fault(
            "search_space.packing",
            f"attention of joined rows is kept apart by their positions, which is tested for plain "
            f"text models only, and {'model ' + name if name else 'the model'} is not one "
            f"({shape.model_type})",
            True,
            "false",
        )
        for name, shape in shapes.items()
        if shape.tree is not None or shape.model_type not in MODELLED
    ]
    if faults:
        raise FaultyFileError(f"study {study.study}", faults)


def _check_targets(study: StudySpec, shapes: Mapping[str, ModelShape]) -> None:
    """Refuses targets that a model lacks.

    Args:
        shapes: by the model's short name; the name is empty if the study has one model.
    """
    faults = []
    for name, shape in shapes.items():
        for index, target in enumerate(study.search_space.lora_target):
            try:
                shape.lora_layers(target)
            except ValueError as error:
                said = f"model {name}: {error}" if name else str(error)
                faults.append(Fault(f"search_space.lora_target[{index}]", said, target))
    if faults:
        raise FaultyFileError(f"study {study.study}", faults)
