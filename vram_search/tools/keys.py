"""The keys of one tool's configuration, beside the names that this program uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vram_search.spec.hyperparameters import DIMENSIONS


@dataclass(frozen=True)
class ToolKeys:
    """One version of a tool, and how its configuration is spelled.

    Attributes:
        title: the tool's name.
        version: whose parser accepts the exports; empty where `title` says all.
        names: our name -> the tool's key, where they differ.
        defaults: the tool's key -> the value that it has where the key is absent.
        known: every key that the tool reads.
        successors: a key of an earlier version -> the key that took its place.
        on_unknown: what the tool does with a key that it does not read, as the end of a sentence.
    """

    title: str
    version: str
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    successors: Mapping[str, str] = field(default_factory=dict)
    on_unknown: str = "stops at it"

    @property
    def label(self) -> str:
        """Title and version."""
        return f"{self.title} {self.version}".rstrip()

    def key(self, name: str) -> str:
        """The tool's key for one of our names."""
        return self.names.get(name, name)

    def written(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values under the tool's keys, in the same order."""
        return {self.key(name): value for name, value in values.items()}

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a configuration under our names."""
        ours = {key: name for name, key in self.names.items()}
        return {ours.get(key, key): value for key, value in config.items()}


def hyperparameter_names(tool: str) -> dict[str, str]:
    """Hyperparameters that a tool spells in its own way -> its keys.

    Args:
        tool: as in `Dimension.keys`.
    """
    return {row.name: row.key(tool) for row in DIMENSIONS if row.key(tool) != row.name}


def key_set(text: str) -> frozenset[str]:
    """Keys that a text lists, with blanks between them."""
    return frozenset(text.split())
