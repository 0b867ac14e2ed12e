"""A training file's keys, each read with its type, and the recipe that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vram_search.errors import InputError
from vram_search.estimate.memory.workload import Workload
from vram_search.models import find_model
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.shape import ModelShape
from vram_search.typed_fields import TypedFields, shown

OPTIMIZER_ALIASES = {"adamw_bnb_8bit": "adamw_8bit"}
"""Second names of transformers' `OptimizerNames` for the same optimizer."""


@dataclass(frozen=True)
class Recipe:
    """A training as its file describes it."""

    workload: Workload
    model: str
    """As the file names it: a folder or a hub name."""
    source: Literal["llamafactory", "axolotl"]
    notes: list[str]
    """What changes the bytes and is not modelled; each begins with its key."""


@dataclass(frozen=True)
class RecipeKeys(TypedFields):
    """The keys of a training file."""

    folder: Path
    """Of the file; a model's folder may be named relative to it."""

    def strategy(self, key: str, default: str) -> str:
        """`no`, `steps` or `epoch`; YAML reads an unquoted no as false."""
        if self.values.get(key) is False:
            return "no"
        return self.choice(key, ("no", "steps", "epoch"), default)

    def unmodelled(self, reasons: Mapping[str, str]) -> list[str]:
        """A note for each key that is switched on."""
        switched_off: tuple[object, ...] = (None, False, 0, "", "none", "no", [], {})
        return [
            f"{key}: {shown(self.values[key])} is not modelled: {reason}"
            for key, reason in reasons.items()
            if key in self.values and self.values[key] not in switched_off
        ]


def shape_named(keys: RecipeKeys, key: str, model: str) -> ModelShape:
    """Returns the shape of the model that a key names; a relative folder may start from the file's.

    Raises:
        InputError: no such model, or the hub cannot be asked for it.
    """
    try:
        return find_model(model, beside=keys.folder).shape()
    except InputError as error:
        raise keys.refused(
            key, f"names a model that was not found: {error.message}", error.remedy
        ) from None


def modules_named(keys: RecipeKeys, key: str, named: object, shape: ModelShape) -> tuple[str, ...]:
    """Names of the model's linear layers, each once, in the order written.

    Raises:
        InputError: no list of names, or the model lacks one.
    """
    names = named.split(",") if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise keys.refused(key, "is not a list of module names", "write [q_proj, v_proj] or all")
    present = [linear.name for linear in shape.linears]
    modules = tuple(dict.fromkeys(name.strip() for name in names))
    if modules == ("all",):
        return tuple(present)
    missing = [name for name in modules if name not in present]
    if missing:
        raise keys.refused(
            key,
            f"names what this model ({shape.model_type}) lacks: {shown(missing)}",
            f"it has {', '.join(present)}",
        )
    return modules


def optimizer_named(keys: RecipeKeys, key: str, default: str) -> str:
    """The optimizer under its first name.

    Raises:
        InputError: it is none of OPTIMIZERS.
    """
    name = keys.choice(key, (*OPTIMIZERS, *OPTIMIZER_ALIASES), default)
    return OPTIMIZER_ALIASES.get(name, name)
