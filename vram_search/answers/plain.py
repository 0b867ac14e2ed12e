"""The base classes of answers without pydantic, which takes longer to import than they to compute.

The JSON schema and the REST API read the same classes with pydantic, which knows dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

VERSION_MEANING = (
    "Version of this answer's schema. New keys keep the version; it is raised when a key is "
    "removed or changes its meaning."
)


def described(meaning: str) -> dict[str, str]:
    """Builds the metadata of a field, from which pydantic takes its description."""
    return {"description": meaning}


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


def _plain(value: Any) -> Any:
    if isinstance(value, PlainPart):
        return value.as_dict()
    return [_plain(one) for one in value] if isinstance(value, list) else value
