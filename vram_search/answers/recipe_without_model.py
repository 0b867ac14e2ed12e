"""The answer of `estimate` for a training file whose model is not found: what the file trains."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vram_search.answers.named import clean
from vram_search.answers.plain import PlainAnswer, described
from vram_search.errors import ModelNotFoundError
from vram_search.estimate.memory.workload import Workload


@dataclass(frozen=True, kw_only=True)
class RecipeWithoutModel(PlainAnswer):
    """Describes a recipe of another tool without bytes: its model is not found."""

    recipe: str = field(metadata=described("Path of the file."))
    source: str = field(metadata=described("The tool that the recipe is for."))
    model: str = field(metadata=described("The model as the file names it."))
    fits: None = field(default=None, metadata=described("Not known without the model."))
    missing: str = field(metadata=described("Why the model's shape is not known."))
    remedy: str = field(metadata=described("How to give the model."))
    training: dict[str, Any] = field(
        metadata=described("What the file trains, with names as LLaMA-Factory spells them.")
    )
    notes: list[str] = field(
        metadata=described("Sentences on keys that the estimate reads otherwise.")
    )


def describe_without_model(file: Path, error: ModelNotFoundError) -> RecipeWithoutModel:
    """Describes a training file whose model is not found.

    Raises:
        InputError: another value of the file cannot be used.
    """
    from vram_search.estimate.recipes.load import load_without_model

    recipe = load_without_model(file)
    command = f"vram-search estimate {shlex.quote(file.as_posix())} --model NAME|FOLDER"
    otherwise = error.remedy[:1].lower() + error.remedy[1:]
    return RecipeWithoutModel(
        recipe=str(file),
        source=recipe.source,
        model=clean(recipe.model),
        missing=clean(error.message.removeprefix(f"{file}: ")),
        remedy=clean(f"give the model: {command}; or {otherwise}"),
        training=_training(recipe.workload),
        notes=[clean(note) for note in (*recipe.notes, *recipe.needs_more, *recipe.needs_less)],
    )


def _training(workload: Workload) -> dict[str, Any]:
    is_whole = workload.trained_base_parameters > 0
    return {
        "finetuning_type": "full or freeze" if is_whole else "lora",
        "objective": workload.objective,
        "quantization": workload.quantization,
        **({} if is_whole else {"lora_rank": workload.lora_rank}),
        "cutoff_len": workload.cutoff_len,
        "per_device_train_batch_size": workload.per_device_train_batch_size,
        "gradient_accumulation_steps": workload.gradient_accumulation_steps,
        "optim": workload.optimizer,
        "gradient_checkpointing": workload.gradient_checkpointing,
    }
