"""Values of a run's files and tables: numbers may be texts, and losses may be nan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vram_search.typed_fields import MAX_TEXT, TypedFields

MAX_COUNT = 2**31 - 1


@dataclass(frozen=True)
class RunFields(TypedFields):
    """Every key may be absent; a blank text is an absent value."""

    def found(self, key: str) -> tuple[str, Any]:
        value = self.values.get(key)
        is_blank = isinstance(value, str) and not value.strip()
        return key, None if is_blank else value

    def as_number(self, value: object) -> int | float | None:
        """YAML 1.1 reads 2e-4 as a text, and a table holds texts alone."""
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return None
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return super().as_number(value)

    def loss(self, key: str) -> float | None:
        """A number that may be nan or inf: a training that diverged wrote it."""
        value = self.found(key)[1]
        if value is None:
            return None
        number = self.as_number(value)
        if number is None:
            raise self.refused(key, "is not a number", "write one, with a point")
        if isinstance(number, int) and abs(number) > 2**63:  # too large for a float, perhaps
            raise self.refused(key, "is out of range", "restore the file as it was written")
        return float(number)

    def count(self, key: str, least: int = 0) -> int | None:
        return self.size_or_none(key, least=least, most=MAX_COUNT)

    def label(self, key: str) -> str | None:
        """A short text on one line."""
        value = self.text_or_none(key)
        if value is not None and len(value) > MAX_TEXT:
            raise self.refused(key, "is too long", f"write at most {MAX_TEXT} characters")
        return value and ("".join(c if c.isprintable() else " " for c in value).strip() or None)
