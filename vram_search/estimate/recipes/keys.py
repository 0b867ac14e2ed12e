"""A training file's keys, each read with its type, and the recipe that they make."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vram_search.errors import InputError
from vram_search.estimate.memory.workload import Workload
from vram_search.resources import shipped
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.shape import ModelShape, load_shape, shape_names, shipped_shape_for

MAX_SIZE = 2**31
"""Above this a count is a slip of the hand: no card holds so many tokens, rows or ranks."""

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
class Keys:
    """The file's keys, each read with its type; a null is an absent key."""

    path: Path
    values: Mapping[Any, Any]

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def refused(self, key: str, message: str, remedy: str) -> InputError:
        value = f" (is {_shown(self.values[key])})" if self.has(key) else ""
        return InputError(f"{self.path}: {key}: {message}{value}", remedy)

    def count(self, key: str, default: int | None) -> int:
        """A whole number from 1 to MAX_SIZE; without a default the key has to be there."""
        value = self.values.get(key) if self.has(key) else default
        if value is None:
            raise self.refused(key, "is missing", "write a whole number above 0")
        if type(value) is not int or value < 1:
            raise self.refused(key, "is not a whole number above 0", "write one, unquoted")
        if value > MAX_SIZE:
            raise self.refused(key, "is absurdly large", f"allowed: 1 to {MAX_SIZE}")
        return value

    def amount(self, key: str) -> float:
        """A number of rows or a share of them; 0 by default."""
        value = self.values.get(key) if self.has(key) else 0
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refused(key, "is not a number", "write a share or a number of rows")
        if not 0 <= value <= MAX_SIZE or math.isnan(value):
            raise self.refused(key, "is out of range", f"allowed: 0 to {MAX_SIZE}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key) if self.has(key) else default
        if not isinstance(value, bool):
            raise self.refused(key, "is neither true nor false", "write true or false, unquoted")
        return value

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.refused(key, "is not a text", "write a folder or a hub name")
        return value

    def choice(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.values.get(key) if self.has(key) else default
        if not isinstance(value, str) or value not in allowed:
            raise self.refused(key, "cannot be estimated", f"allowed: {', '.join(allowed)}")
        return value

    def strategy(self, key: str, default: str) -> str:
        """`no`, `steps` or `epoch`; YAML reads an unquoted no as false."""
        if self.values.get(key) is False:
            return "no"
        return self.choice(key, default, ("no", "steps", "epoch"))

    def unmodelled(self, reasons: Mapping[str, str]) -> list[str]:
        """A note for each key that is switched on."""
        switched_off: tuple[object, ...] = (None, False, 0, "", "none", "no", [], {})
        return [
            f"{key}: {_shown(self.values[key])} is not modelled: {reason}"
            for key, reason in reasons.items()
            if key in self.values and self.values[key] not in switched_off
        ]


def shape_named(keys: Keys, key: str, model: str) -> ModelShape:
    """The shape in the folder that a key names, else the shipped one of that hub name.

    Raises:
        InputError: there is neither.
    """
    for folder in (Path(model), keys.path.parent / model):
        try:
            is_model = (folder / "config.json").is_file()
        except OSError:  # a text too long for a path
            break
        if is_model:
            return load_shape(folder)
    slug = shipped_shape_for(model)
    if slug is None:
        raise keys.refused(
            key,
            "names a model whose shape is not known here",
            "give the folder with its config.json, or one of: " + ", ".join(shape_names()),
        )
    return load_shape(shipped("configs", "models", slug))


def modules_named(keys: Keys, key: str, named: object, shape: ModelShape) -> tuple[str, ...]:
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
            f"names what this model ({shape.model_type}) lacks: {_shown(missing)}",
            f"it has {', '.join(present)}",
        )
    return modules


def optimizer_named(keys: Keys, key: str, default: str) -> str:
    """The optimizer under its first name.

    Raises:
        InputError: it is none of OPTIMIZERS.
    """
    name = keys.choice(key, default, (*OPTIMIZERS, *OPTIMIZER_ALIASES))
    return OPTIMIZER_ALIASES.get(name, name)


def _shown(value: object) -> str:
    """A value for a message, short even where YAML aliases make it huge."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python prints no number of more than 4300 digits
        return "a huge number"
