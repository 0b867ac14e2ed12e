"""Mappings of a study's record, of which a value may be missing: the database may be damaged."""

from __future__ import annotations

from typing import Any

from vram_search.errors import InputError


class MissingValueError(InputError, KeyError):
    """The record of a study lacks a value."""


class RecordedValues(dict[str, Any]):
    """A mapping whose missing keys are errors that a person understands."""

    def __missing__(self, key: str) -> Any:
        raise MissingValueError(
            f"the record of the study is damaged: it holds no {key}",
            "run the study file again, that records it; `db check` names damaged values",
        )


def recorded_values(value: Any) -> Any:
    """A copy of a JSON value in which all mappings are RecordedValues."""
    if isinstance(value, dict):
        return RecordedValues({key: recorded_values(inner) for key, inner in value.items()})
    if isinstance(value, list):
        return [recorded_values(inner) for inner in value]
    return value
