"""A training file's keys, each read with its type, and the recipe that they make."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vram_search.estimate.memory.workload import Workload
from vram_search.spec.hyperparameters import OPTIONAL
from vram_search.tools import ToolKeys
from vram_search.typed_fields import TypedFields, shown

_OFF: tuple[object, ...] = (None, False, 0, "", "none", "no", [], {})


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
    """

    folder: Path
    tool: ToolKeys

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
