"""A training file's keys, each read with its type, and the recipe that they make."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vram_search.estimate.memory.workload import Workload
from vram_search.spec.hyperparameters import OPTIONAL
from vram_search.tools import ToolKeys
from vram_search.typed_fields import MAX_SIZE, TypedFields, shown

_OFF: tuple[object, ...] = (None, False, 0, "", "none", "no", [], {})
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FLAGS = {"true": True, "false": False}
_WORDS = {
    **dict.fromkeys(("yes", "y", "on", "t", 1), True),
    **dict.fromkeys(("no", "n", "off", "f", 0), False),
}


def unquoted(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The values of a training file, with numbers and flags that are written as texts.

    The tools take `"16"`, `"2e-4"`, `16.0` and `"true"` for the number and the flag (pydantic's lax
    mode, transformers' HfArgumentParser).
    """
    return {key: _unquoted(value) for key, value in values.items()}


def _unquoted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return unquoted(value)
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _FLAGS:
            return _FLAGS[text.lower()]
        value = float(text) if _NUMBER.fullmatch(text) else value
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < MAX_SIZE
    return int(value) if is_whole else value


@dataclass(frozen=True)
class Recipe:
    """A training as its file describes it.

    Attributes:
        model: as the file names it, a folder or a hub name.
        source: the tool, as `tools.detect` names it.
        notes: what is counted in another way than it is written, or is not modelled; each begins
            with its key.
        needs_more: why the training needs more than the estimate by an amount that is not known.
        needs_less: why it may need less.
    """

    workload: Workload
    model: str
    source: str
    notes: list[str] = field(default_factory=list)
    needs_more: list[str] = field(default_factory=list)
    needs_less: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RecipeKeys(TypedFields):
    """The keys of a training file, read by our names, with the tool's defaults.

    Attributes:
        folder: folder of the file; a model's folder may be named relative to it.
        model: name of a model that is put in the place of the file's; empty for the file's own.
        is_stand_in: this model stands for one that is not known, so that its layers tell nothing.
    """

    folder: Path
    tool: ToolKeys
    model: str = ""
    is_stand_in: bool = False

    def found(self, key: str) -> tuple[str, Any]:
        theirs = self.tool.key(key)
        former = (old for old, new in self.tool.successors.items() if new == theirs)
        for name in (theirs, *former):
            if self.values.get(name) is not None:
                return name, self.values[name]
        return theirs, self.tool.defaults.get(theirs)

    def is_on(self, key: str) -> bool:
        """The file holds the key, and does not switch it off."""
        return key in self.values and self.values[key] not in _OFF

    def flag(self, key: str, default: bool = False) -> bool:
        """The same as the tools take it: with yes and no, on and off, 1 and 0."""
        value = self.found(key)[1]
        word = value.strip().lower() if isinstance(value, str) else value
        if type(word) in (str, int) and word in _WORDS:
            return _WORDS[word]
        return super().flag(key, default)

    def strategy(self, key: str) -> str:
        """`no`, `steps` or `epoch`; YAML reads an unquoted no as false."""
        if self.found(key)[1] is False:
            return "no"
        return self.choice(key, ("no", "steps", "epoch"))

    def reasons(self, table: Mapping[str, str]) -> list[str]:
        """A sentence for each key of a table that is switched on."""
        return [
            f"{key}: {shown(self.values[key])} is not modelled: {reason}"
            for key, reason in table.items()
            if self.is_on(key)
        ]

    def optional_hyperparameters(self) -> dict[str, Any]:
        """The optional hyperparameters that change bytes, as fields of a Workload."""
        return {
            one.name: self.flag(one.name, one.default)
            if one.kind == "flag"
            else self.number(one.name, one.default, most=one.most)
            for one in OPTIONAL
            if one.is_workload
        }

    def is_reentrant(self, default: bool) -> bool:
        """How a checkpointed layer is computed again (`gradient_checkpointing_kwargs`)."""
        settings = self.section("gradient_checkpointing_kwargs") or {}
        return TypedFields(settings, self.place).flag("use_reentrant", default)

    def notes_on_keys(self) -> list[str]:
        """A note for every key that the tool does not read, or reads under another name today."""
        return list(self._notes_on_keys())

    def _notes_on_keys(self) -> Iterator[str]:
        title = self.tool.title
        for key in map(str, self.values):
            if key in self.tool.known:
                continue
            if key in self.tool.successors:
                yield f"{key}: former name of {self.tool.successors[key]}, read as that"
                continue
            close = difflib.get_close_matches(key, sorted(self.tool.known), n=1, cutoff=0.8)
            meant = f"; did you mean {close[0]}?" if close else ""
            yield f"{shown(key)[1:-1]}: unknown key, {title} {self.tool.on_unknown}{meant}"
