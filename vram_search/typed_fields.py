"""Reads values of a mapping by key, each with its type; an error names place, key and value.

Needs no pydantic, so that `estimate --points` starts without it.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vram_search.errors import InputError

MAX_SIZE = 2**31
"""A larger count is a slip: no card holds so many tokens, rows or ranks."""
MAX_TEXT = 500
"""Characters of a name or a note."""


class FieldError(InputError):
    """A value that cannot be used.

    Args:
        place: the file, and the line where it has one.
        field: the key.
        problem: what is wrong, with the value.
    """

    def __init__(self, place: str, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{place}: {field}: {problem}", remedy)
        self.field, self.problem = field, problem


@dataclass(frozen=True)
class TypedFields:
    """A mapping's values. A null is an absent key.

    Every reader raises FieldError for a value of another kind, and for a missing key where it has
    neither a default nor `or_none` in its name.
    """

    values: Mapping[Any, Any]
    place: str

    def found(self, key: str) -> tuple[str, Any]:
        """The name under which the key stands in the mapping, and its value."""
        return key, self.values.get(key)

    def has(self, key: str) -> bool:
        return self.found(key)[1] is not None

    def refused(self, key: str, problem: str, remedy: str) -> FieldError:
        name, value = self.found(key)
        is_value = "" if value is None else f" (is {shown(value)})"
        return FieldError(self.place, name, problem + is_value, remedy)

    def missing(self, key: str, remedy: str) -> FieldError:
        return FieldError(self.place, self.found(key)[0], "is missing", remedy)

    def size(
        self, key: str, default: int | None = None, *, least: int = 1, most: int = MAX_SIZE
    ) -> int:
        """A whole number."""
        value = self.size_or_none(key, least=least, most=most)
        if value is None and default is None:
            raise self.missing(key, f"write a whole number from {least}")
        return default if value is None else value  # type: ignore[return-value]

    def size_or_none(self, key: str, *, least: int = 1, most: int = MAX_SIZE) -> int | None:
        """A whole number; None where it is absent."""
        value = self.found(key)[1]
        number = None if value is None else self.as_number(value)
        if value is None:
            return None
        if type(number) is not int or not least <= number <= most:
            allowed = f"a whole number from {least} to {most}"
            raise self.refused(key, f"is not {allowed}", f"write {allowed}, unquoted")
        return number

    def number(self, key: str, default: float = 0.0, *, most: float = MAX_SIZE) -> float:
        """A number from 0."""
        value = self.number_or_none(key, most=most)
        return default if value is None else value

    def number_or_none(
        self, key: str, *, least: float = 0.0, most: float = MAX_SIZE
    ) -> float | None:
        """A finite number; None where it is absent."""
        value = self.found(key)[1]
        if value is None:
            return None
        number = self.as_number(value)
        if number is None:
            raise self.refused(key, "is not a number", "write a number, unquoted")
        if not least <= number <= most or math.isinf(number):
            raise self.refused(key, "is out of range", f"write a number from {least:g}")
        return float(number)

    def as_number(self, value: object) -> int | float | None:
        """The number that a value stands for; None where it is none."""
        return value if type(value) in (int, float) else None  # type: ignore[return-value]

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.found(key)[1]
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refused(key, "is neither true nor false", "write true or false, unquoted")
        return value

    def text(self, key: str) -> str:
        """A text that is not blank."""
        value = self.text_or_none(key)
        if value is None:
            raise self.missing(key, "write a text")
        return value

    def text_or_none(self, key: str) -> str | None:
        """The same; None where it is absent."""
        value = self.found(key)[1]
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self.refused(key, "is not a text", "write a text")
        return value

    def choice(self, key: str, allowed: Collection[str], default: str | None = None) -> str:
        value = self.found(key)[1]
        value = default if value is None else value
        one_of = f"write one of: {', '.join(allowed)}"
        if value is None:
            raise self.missing(key, one_of)
        if not isinstance(value, str) or value not in allowed:
            raise self.refused(key, "is not a known value", one_of)
        return value

    def section(self, key: str) -> Mapping[str, Any] | None:
        """A mapping; None where it is absent."""
        value = self.found(key)[1]
        if value is not None and not isinstance(value, Mapping):
            raise self.refused(key, "is not a mapping", "write keys with values below it")
        return value

    def list_of(self, kind: type, key: str) -> list[Any] | None:
        """A list of values of one kind; None where it is absent."""
        value = self.found(key)[1]
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(entry) is kind for entry in value):
            name = _KINDS[kind]
            raise self.refused(key, f"is not a list of {name}", f"write a list of {name}")
        return value


_KINDS = {str: "texts", int: "whole numbers"}


def shown(value: object) -> str:
    """A value for a message, short even where YAML aliases make it huge."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python prints no number of more than 4300 digits
        return "a huge number"
