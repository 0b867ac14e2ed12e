"""Hub names as people write them, and the models whose shape is shipped
(configs/models/index.json)."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from vram_search.resources import shipped

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""The hub name of a model or data set: org/name."""
_HUB = r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)"
_PAGE = re.compile(rf"{_HUB}/([\w.-]+/[\w.-]+)(?:/.*)?")
_DATA_PAGE = re.compile(rf"{_HUB}/datasets/([\w.-]+/[\w.-]+)/?(?:(?:tree|viewer)(?:/.*)?)?")
MIRRORS = frozenset({"unsloth", "nousresearch", "unsloth-bnb", "axolotl-ai-co"})
"""Owners who publish other owners' models again under the same name, with the same layers. Where
their layers differ, the index names the mirror's model itself (`unsloth/phi-4`)."""


def model_of_page(text: str) -> str | None:
    """Returns the hub name in the address of a model's page; None for other texts."""
    page = _PAGE.fullmatch(text.strip())
    return page[1] if page else None


def data_set_of_page(text: str) -> str | None:
    """Returns the hub name in the address of a data set's page; None for other texts."""
    page = _DATA_PAGE.fullmatch(text.strip())
    return page[1] if page else None


def hub_name(text: str) -> str | None:
    """Returns the hub name of a model; None for a text that is none.

    The owner of a shipped model may be left out ("qwen2.5-3b", "Qwen2.5-3B-Instruct").
    """
    name = text.strip()
    return name if HUB_NAME.fullmatch(name) else _published().get(name.lower())


@lru_cache(maxsize=1)
def model_index() -> dict[str, dict[str, Any]]:
    """Returns names, source and parameters of each shipped shape, by its slug."""
    text = shipped("configs", "models", "index.json").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, Any]] = json.loads(text)
    return loaded


@lru_cache(maxsize=1)
def slugs_by_full_name() -> dict[str, str]:
    """Slug by hub name in lower case."""
    return {name.lower(): slug for slug, entry in model_index().items() for name in entry["names"]}


@lru_cache(maxsize=1)
def slugs_by_base_name() -> dict[str, str]:
    """Slug by the name in lower case without its owner."""
    names = slugs_by_full_name()
    return {base: names[full] for base, full in _full_by_base_name().items()}


@lru_cache(maxsize=1)
def _published() -> dict[str, str]:
    """Hub name by slug, and by its name in lower case without the owner."""
    spelt = {name.lower(): name for entry in model_index().values() for name in entry["names"]}
    slugs = {slug: entry["names"][0] for slug, entry in model_index().items()}
    return slugs | {base: spelt[full] for base, full in _full_by_base_name().items()}


def _full_by_base_name() -> dict[str, str]:
    """A publisher's own name comes before a mirror's."""
    found: dict[str, str] = {}
    for are_mirrors in (False, True):
        for name in slugs_by_full_name():
            owner, _, base = name.partition("/")
            if (owner in MIRRORS) is are_mirrors:
                found.setdefault(base, name)
    return found
