"""The base classes of all answers: immutable, versioned, the same as JSON for every caller."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from vram_search.answers.plain import VERSION_MEANING

Timestamp = Annotated[
    datetime,
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
    Field(json_schema_extra={"format": "date-time"}),
]
"""UTC; ISO 8601 in JSON."""


class AnswerPart(BaseModel):
    """One object inside an answer."""

    # A class is built at its first use: one question imports many that it does not use.
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), defer_build=True
    )

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `--json`, as plain dicts, lists, numbers and texts."""
        return self.model_dump(mode="json", warnings=False)


class Answer(AnswerPart):
    """A whole answer; `docs/schema/` holds the JSON schema of each."""

    schema_version: Literal[1] = Field(
        default=1,
        description=VERSION_MEANING,
    )
