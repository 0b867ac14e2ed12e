"""One row: a conversation, or a plain text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

TEXT, TEXT_READ = "text", "text_read"
"""Roles of a plain text, which is no turn of a conversation: what is learnt, and what is read."""
SEGMENT, SEGMENT_READ = "segment", "segment_read"
"""The same for text that brings its own begin and end tokens."""
_TEXT_ROLES = (TEXT, TEXT_READ, SEGMENT, SEGMENT_READ)
LEARNT_ROLES = (TEXT, SEGMENT, "assistant")
"""Roles whose texts are learnt."""


@dataclass(frozen=True)
class Example:
    """A conversation whose last turn is the assistant's, or a plain text.

    Attributes:
        messages: (role, content) pairs; roles are system, user, assistant and tool. A plain text
            is one pair of the role TEXT, or several pieces of which some are read.
        fields: JSON of each message's further fields, empty for none: `reasoning_content`,
            `tool_calls`, `name`, `tool_call_id`. An empty tuple where no message has any.
        tools: JSON list of the functions that may be called; empty for none.
        untrained: indices of answers without a loss.
        place: file and row, for a message.
    """

    messages: tuple[tuple[str, str], ...]
    fields: tuple[str, ...] = ()
    tools: str = ""
    untrained: tuple[int, ...] = ()
    place: str = field(default="", compare=False)

    @property
    def turns(self) -> list[dict[str, Any]]:
        """As `apply_chat_template` takes them."""
        turns: list[dict[str, Any]] = [
            {"role": role, "content": content} for role, content in self.messages
        ]
        for turn, fields in zip(turns, self.fields, strict=False):
            turn.update(json.loads(fields) if fields else {})
        return turns

    @property
    def is_text(self) -> bool:
        """True if the row is a plain text, which needs no chat template."""
        return self.messages[0][0] in _TEXT_ROLES

    @property
    def is_plain(self) -> bool:
        """True if the row holds (role, content) pairs and nothing else."""
        return not (self.fields or self.tools or self.untrained)

    @property
    def tool_list(self) -> list[dict[str, Any]] | None:
        """As `apply_chat_template` takes them."""
        return json.loads(self.tools) if self.tools else None

    def hashed(self) -> bytes:
        """The content that a data hash covers; for plain rows only the pairs."""
        counted: Any = self.messages
        if not self.is_plain:
            counted = [self.messages, self.fields, self.tools, self.untrained]
        return json.dumps(counted, ensure_ascii=False).encode()


def example_of(
    turns: Iterable[tuple[str, str, dict[str, Any]]],
    tools: list[Any] | None = None,
    untrained: Iterable[int] = (),
) -> Example:
    """An example of (role, content, further fields) triples."""
    triples = list(turns)
    fields = tuple(as_json(more) if more else "" for _, _, more in triples)
    return Example(
        tuple((role, content) for role, content, _ in triples),
        fields if any(fields) else (),
        as_json(tools) if tools else "",
        tuple(untrained),
    )


def as_json(value: object) -> str:
    """Letters as they are: a chat template may put the text into a prompt."""
    return json.dumps(value, ensure_ascii=False)
