"""Writes a chat template as Ollama's Go template, from what the template itself renders.

The texts between the messages are found by rendering conversations with marked contents, so that no
table of families is needed. Conversations that were not used for that check the result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vram_search.errors import InputError

Turn = tuple[str, str]
"""Role and content."""
Render = Callable[[Sequence[Turn]], str]
"""Renders a conversation with the prompt for the next answer at its end."""

_SYSTEM, _USER, _ANSWER, _AGAIN = "Mark0", "Mark1", "Mark2", "Mark3"
_WITHOUT_SYSTEM: tuple[tuple[Turn, ...], ...] = (
    (("user", "hello"),),
    (("user", "one"), ("assistant", "two"), ("user", "three")),
    (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")),
)
_PADDED: tuple[Turn, ...] = (("user", " hello\n"),)
_WITH_SYSTEM: tuple[tuple[Turn, ...], ...] = (
    (("system", "be brief"), ("user", "hello")),
    (("system", "s"), ("user", "one"), ("assistant", "two"), ("user", "three")),
)

NO_SYSTEM = "the chat template takes no system message"
SYSTEM_ELSEWHERE = (
    "a system message is written at the beginning; in longer conversations the trained template "
    "puts it elsewhere"
)
TRIMMED = (
    "the trained template removes white space around a message, which Ollama's templates cannot: "
    "send messages without it"
)


@dataclass(frozen=True)
class TurnTexts:
    """The texts that a chat template puts around messages.

    Attributes:
        before_system: before a system message; None if the template takes none.
        system_to_user: between a system message and a user's.
        before_first_user: before the first user's message without a system message, with the
            template's own system message if it has one.
        user_to_answer: between a user's message and a recorded answer.
        answer_to_user: between an answer and the next user's message.
        before_answer: after the last message: the prompt for the next answer.
    """

    before_system: str | None
    system_to_user: str
    before_first_user: str
    user_to_answer: str
    answer_to_user: str
    before_answer: str

    def without_start(self, token: str | None) -> TurnTexts:
        """Returns the texts without a begin token that the runtime adds itself."""
        if not token:
            return self
        system = self.before_system
        return TurnTexts(
            None if system is None else system.removeprefix(token),
            self.system_to_user,
            self.before_first_user.removeprefix(token),
            self.user_to_answer,
            self.answer_to_user,
            self.before_answer,
        )

    def render(self, turns: Sequence[Turn]) -> str:
        """Renders a conversation as the Go template does."""
        text, previous = "", ""
        for role, content in turns:
            if role == "system":
                text += self.before_system or ""
            elif role == "assistant":
                text += self.user_to_answer
            elif previous == "system":
                text += self.system_to_user
            else:
                text += self.answer_to_user if previous == "assistant" else self.before_first_user
            text, previous = text + content, role
        return text + self.before_answer

    def go_template(self) -> str:
        """Returns the texts as a Go template over `.Messages`; all text is in string literals, so
        that no white space is lost."""

        def said(text: str) -> str:
            return f"{{{{- {go_string(text)} -}}}}"

        lines = [
            '{{- $previous := "" -}}',
            "{{- range .Messages -}}",
            '{{- if eq .Role "system" -}}',
            said(self.before_system or ""),
            '{{- else if eq .Role "assistant" -}}',
            said(self.user_to_answer),
            '{{- else if eq $previous "system" -}}',
            said(self.system_to_user),
            '{{- else if eq $previous "assistant" -}}',
            said(self.answer_to_user),
            "{{- else -}}",
            said(self.before_first_user),
            "{{- end -}}",
            "{{- .Content -}}",
            "{{- $previous = .Role -}}",
            "{{- end -}}",
            said(self.before_answer),
        ]
        return "\n".join(lines)


def go_string(text: str) -> str:
    """Returns a text as a string literal of Go: JSON's escapes mean the same there."""
    return json.dumps(text, ensure_ascii=False)


def turn_texts(render: Render) -> TurnTexts:
    """Finds the texts around the messages.

    Raises:
        InputError: the template changes or drops a message; Ollama cannot do the same.
    """
    first, last = _pieces(render, [("user", _USER)])
    _, to_answer, to_user, _ = _pieces(
        render, [("user", _USER), ("assistant", _ANSWER), ("user", _AGAIN)]
    )
    try:
        system, to_first, _ = _pieces(render, [("system", _SYSTEM), ("user", _USER)])
    except InputError:
        return TurnTexts(None, "", first, to_answer, to_user, last)
    return TurnTexts(system, to_first, first, to_answer, to_user, last)


def check_texts(texts: TurnTexts, render: Render) -> list[str]:
    """Compares conversations as both render them; returns remarks on those that differ.

    Raises:
        InputError: conversations without a system message differ.
    """
    if any(texts.render(turns) != render(turns) for turns in _WITHOUT_SYSTEM):
        raise InputError(
            "the chat template cannot be written for Ollama: it renders a conversation of several "
            "turns differently from its parts",
            "write the TEMPLATE by hand, or use the merged model with another runtime",
        )
    remarks = []
    if texts.before_system is None:
        remarks.append(NO_SYSTEM)
    elif any(texts.render(turns) != render(turns) for turns in _WITH_SYSTEM):
        remarks.append(SYSTEM_ELSEWHERE)
    if texts.render(_PADDED) != render(_PADDED):
        remarks.append(TRIMMED)
    return remarks


def _pieces(render: Render, turns: list[Turn]) -> list[str]:
    """Returns the texts around the contents of a conversation, one more than it has turns."""
    rest, found = _rendered(render, turns), []
    for _, mark in turns:
        before, is_there, rest = rest.partition(mark)
        if not is_there:
            raise InputError("the chat template changes or drops a message")
        found.append(before)
    return [*found, rest]


def _rendered(render: Render, turns: list[Turn]) -> str:
    try:
        return render(turns)
    except Exception as error:  # a template may raise anything
        raise InputError(f"the chat template refuses a conversation: {error}") from None


def renderer(render_messages: Callable[[list[dict[str, Any]], Any, bool], str]) -> Render:
    """Returns a tokenizer's chat template (`chat_renderer`) as a Render."""

    def render(turns: Sequence[Turn]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return render_messages(messages, None, True)

    return render
