"""Hub names whose shape is shipped (configs/models/index.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vram_search.resources import shipped

MIRRORS = frozenset({"unsloth", "nousresearch", "unsloth-bnb"})
"""Owners who publish other owners' models again under the same name, with the same layers. Where
their layers differ, the index names the mirror's model itself (`unsloth/phi-4`)."""
CHECKPOINT_SUFFIXES = {
    "-unsloth-bnb-4bit": "bnb-4bit",
    "-bnb-4bit": "bnb-4bit",
    "-awq": "awq",
    "-gptq-int4": "gptq",
    "-gptq-int8": "gptq",
    "-gptq": "gptq",
    "-fp8": "fp8",
}
"""Endings of quantised copies of a model, and how their weights are stored."""


@dataclass(frozen=True)
class ShippedName:
    """A shipped shape that a name stands for.

    Attributes:
        slug: folder in configs/models/.
        published: hub name of the model that the shape was read from.
        checkpoint: how the named model's weights are stored; empty for 16 or 32 bits.
    """

    slug: str
    published: str
    checkpoint: str = ""


def shipped_name(name: str) -> ShippedName | None:
    """Returns the shipped shape of a slug or hub name; None where the index has none.

    The owner counts: a model of an unknown owner may have other layers under the same name.
    """
    index = _index()
    slug = name.lower()
    if slug in index:
        return ShippedName(slug, index[slug]["names"][0])
    for ending, checkpoint in {"": "", **CHECKPOINT_SUFFIXES}.items():
        if slug.endswith(ending):
            found = _by_owner(slug.removesuffix(ending))
            if found is not None:
                return ShippedName(found, index[found]["names"][0], checkpoint)
    return None


def same_name(name: str) -> ShippedName | None:
    """Returns the shipped shape of a model with this name and any owner."""
    slug = _base_names().get(name.rsplit("/", 1)[-1].lower())
    return None if slug is None else ShippedName(slug, _index()[slug]["names"][0])


def hub_names() -> list[str]:
    """Returns all hub names of the index, as published."""
    return [name for entry in _index().values() for name in entry["names"]]


@lru_cache(maxsize=1)
def _index() -> dict[str, dict[str, Any]]:
    text = shipped("configs", "models", "index.json").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, Any]] = json.loads(text)
    return loaded


@lru_cache(maxsize=1)
def _full_names() -> dict[str, str]:
    return {name.lower(): slug for slug, entry in _index().items() for name in entry["names"]}


@lru_cache(maxsize=1)
def _base_names() -> dict[str, str]:
    """Slug by the name without its owner; the first published one wins."""
    found: dict[str, str] = {}
    for name, slug in _full_names().items():
        owner, _, base = name.partition("/")
        if owner not in MIRRORS:
            found.setdefault(base, slug)
    return found


def _by_owner(name: str) -> str | None:
    """Slug of a hub name in lower case: the owner's own, or a mirror's of the same name."""
    found = _full_names().get(name)
    owner, _, base = name.partition("/")
    return _base_names().get(base) if found is None and owner in MIRRORS else found
