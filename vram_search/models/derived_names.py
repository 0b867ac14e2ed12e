"""Names of trained copies that hold the name of the model that they were trained from."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?[bm]?")
_SIZE = re.compile(r"\d+(?:\.\d+)?[bm]")
_VARIANT = re.compile(r"([-_](instruct|chat|it|base|pt|thinking|hf|\d{4}))+$")
"""Endings of published names that a trained copy leaves out."""


def name_within(name: str, known: Iterable[str]) -> str | None:
    """Returns the longest known name whose family, version and size stand in a name.

    "Hermes-3-Llama-3.2-3B" holds Llama 3.2 3B, and "Llama-3-ELYZA-JP-8B" Llama 3 8B. Words may
    stand between the version and the size, but no number, and the name holds no other size.

    Args:
        name: a model's name in lower case, without its owner.
        known: such names of models whose shape is known.
    """
    words = _WORD.findall(name)
    held = {one: parts for one in known if (parts := _parts(one)) and _holds(words, *parts)}
    return max(
        held, key=lambda one: (len(held[one][0]), len(held[one][1]), -len(one)), default=None
    )


def _parts(known: str) -> tuple[list[str], list[str]] | None:
    """Words of the family with its version, and of the size; None if the name states no size."""
    words = _WORD.findall(_VARIANT.sub("", known))
    first = next((i for i, word in enumerate(words) if _SIZE.fullmatch(word)), 0)
    family, size = words[:first], words[first:]
    return (family, size) if family and _SIZE.fullmatch(size[-1]) else None


def _holds(words: list[str], family: list[str], size: list[str]) -> bool:
    start, end = _place(words, family), _place(words, size)
    if start is None or end is None:
        return False
    between = words[start + len(family) : end]
    has_version = any(word[0].isdigit() for word in family)
    others = words[:end] + words[end + len(size) :]
    return (
        start + len(family) <= end
        and (has_version or not between)
        and not any(word[0].isdigit() for word in between)
        and not any(_SIZE.fullmatch(word) for word in others)
    )


def _place(words: list[str], wanted: list[str]) -> int | None:
    """Where a run of words starts among others."""
    starts = range(len(words) - len(wanted) + 1)
    return next((i for i in starts if words[i : i + len(wanted)] == wanted), None)
