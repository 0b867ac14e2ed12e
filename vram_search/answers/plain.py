"""The base classes of answers without pydantic, which takes longer to import than they to compute.

The JSON schema and the REST API read the same classes with pydantic, which knows dataclasses.
JSON has times as ISO 8601 in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

Number = int | float
"""A whole number stays one: bytes are printed without a decimal point."""

VERSION_MEANING = (
    "Version of this answer's schema. New keys keep the version; it is raised when a key is "
    "removed or changes its meaning."
)


def described(meaning: str) -> dict[str, str]:
    """Builds the metadata of a field, from which pydantic takes its description."""
    return {"description": meaning}


class Described:
    """The meaning of a key in a TypedDict: `Annotated[int, Described("Bytes.")]`."""

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        return {**handler(core_schema), "description": self.meaning}


@dataclass(frozen=True, kw_only=True)
class PlainPart:
    """One object inside an answer."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `--json`, as plain dicts, lists, numbers and texts."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}


@dataclass(frozen=True, kw_only=True)
class PlainAnswer(PlainPart):
    """A whole answer; `docs/schema/` holds the JSON schema of each."""

    schema_version: Literal[1] = field(default=1, metadata=described(VERSION_MEANING))


@runtime_checkable
class _HasDict(Protocol):
    """A part of an answer, of either base class."""

    def as_dict(self) -> dict[str, Any]: ...


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value.as_dict() if isinstance(value, _HasDict) else value
