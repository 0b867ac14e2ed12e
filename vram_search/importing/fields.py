"""Values of a file by key, each read with its type and named in the error where it is wrong."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vram_search.errors import InputError

MAX_COUNT = 2**31 - 1
MAX_TEXT = 500


@dataclass(frozen=True)
class Fields:
    """A mapping's values; an absent key, a null and an empty text are None.

    Every reader raises InputError for a value of another kind, with `place` and key.
    """

    values: Mapping[Any, Any]
    place: str

    def raw(self, key: str) -> Any:
        value = self.values.get(key)
        return None if value == "" else value

    def loss(self, key: str) -> float | None:
        """A number that may be nan or inf: a training that diverged wrote it."""
        value = self.raw(key)
        if value is None:
            return None
        if isinstance(value, str):  # YAML 1.1 reads 2e-4 as text; a table holds texts alone
            try:
                return float(value)
            except ValueError:
                raise self.refused(key, "is not a number", "write one, with a point") from None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refused(key, "is not a number", "write one, unquoted")
        if isinstance(value, int) and abs(value) > 2**63:  # too large for a float, perhaps
            raise self.refused(key, "is out of range", "restore the file as it was written")
        return float(value)

    def number(self, key: str) -> float | None:
        """A finite number, 0 or above."""
        value = self.loss(key)
        if value is not None and not 0 <= value < math.inf:
            raise self.refused(key, "is out of range", "write a number from 0 on")
        return value

    def count(self, key: str, least: int = 0) -> int | None:
        value = self.number(key)
        if value is None:
            return None
        if not value.is_integer() or not least <= value <= MAX_COUNT:
            allowed = f"write a whole number from {least} to {MAX_COUNT}"
            raise self.refused(key, "is out of range", allowed)
        return int(value)

    def text(self, key: str) -> str | None:
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise self.refused(key, "is not a short text", f"write at most {MAX_TEXT} characters")
        return "".join(sign if sign.isprintable() else " " for sign in value).strip() or None

    def refused(self, key: str, message: str, remedy: str) -> InputError:
        try:
            value = reprlib.repr(self.values.get(key))
        except ValueError:  # Python prints no number of more than 4300 digits
            value = "a huge number"
        return InputError(f"{self.place}: {key}: {message} (is {value})", remedy)
