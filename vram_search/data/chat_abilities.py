"""Finds what a chat template can write, by rendering small conversations with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

Messages = list[dict[str, Any]]
Render = Callable[[Messages, list[dict[str, Any]] | None, bool], str]
"""Messages, tools and whether to add the generation prompt -> text."""

MARK = "Zq7Xw"
"""Letters and digits: no template strips or escapes them, and no conversation holds them."""
LAST = "Wd3Xn"
"""The same, for the last answer."""
_OTHER, _THIRD, _VALUE = "Kj9Vp", "Hb4Ym", "Tn2Rd"
_SHORT_ID = "a1b2c3d4e"
"""Mistral's templates take ids of nine letters and digits alone."""


class ChatTemplateError(Exception):
    """The template refuses a conversation, or its answers cannot be found in the text."""


@dataclass(frozen=True)
class CallStyle:
    """How a template takes tool calls.

    Attributes:
        arguments: "object" or "text".
        content: text of an answer that is only a call.
        takes_any_id: the ids of calls may be any text.
    """

    arguments: str
    content: str | None
    takes_any_id: bool = True


class Abilities:
    """Answers are found once and kept."""

    def __init__(self, render: Render) -> None:
        self.render = render

    @cached_property
    def takes_system(self) -> bool:
        """True if a system message is written, and not refused or left out."""
        messages = [_system(MARK), _user(_OTHER), _assistant(_THIRD)]
        return MARK in self._try(messages)

    @cached_property
    def generation_prompt(self) -> str:
        """The text before the model's answer; empty if it cannot be found."""
        asked = [_user(_OTHER)]
        without, with_prompt = self._try(asked), self._try(asked, add_generation_prompt=True)
        return with_prompt[len(without) :] if with_prompt.startswith(without) else ""

    @cached_property
    def closings(self) -> tuple[str, str]:
        """Text after the last answer, and between an earlier one and the next question."""
        messages = [_user("a"), _assistant(MARK), _user(_OTHER), _assistant(_THIRD)]
        text = self._try(messages)
        if not all(text.count(mark) == 1 for mark in (MARK, _OTHER, _THIRD)):
            return "", ""
        between = text[text.index(MARK) + len(MARK) : text.index(_OTHER)]
        return text[text.index(_THIRD) + len(_THIRD) :], between

    @cached_property
    def takes_later_system(self) -> bool:
        """True if a system message after the first turn is written."""
        talk = [_user("a"), _assistant("b"), _system(MARK), _user(_OTHER), _assistant(_THIRD)]
        return MARK in self._try(talk)

    @cached_property
    def tool_calls(self) -> CallStyle | None:
        """How tool calls are taken; None: they are not, or a part of them is left out."""
        for arguments in ("object", "text"):
            for content in ("", None):
                style = CallStyle(arguments, content)
                text = self._try(_called(style, _SHORT_ID), [_tool("b")])
                if all(mark in text for mark in (MARK, _VALUE, _OTHER)) and "None" not in text:
                    return replace(style, takes_any_id=bool(self._try(_called(style, "call_1"))))
        return None

    @cached_property
    def writes_tool_list(self) -> bool:
        """True if the functions that may be called are written."""
        return MARK in self._try([_user("a"), _assistant("b")], [_tool(MARK)])

    @cached_property
    def takes_reasoning(self) -> bool:
        """True if the reasoning of the last answer is written from a field of its own."""
        return MARK in self._try([_user("a"), _reasoned()])

    @cached_property
    def reads_thought_tags(self) -> bool:
        """True if <think> tags in the text of the last answer are written as the reasoning of that
        field is."""
        in_text = _assistant(with_thoughts(MARK, "b"))
        return self._try([_user("a"), in_text]) == self._try([_user("a"), _reasoned()])

    @cached_property
    def keeps_thoughts(self) -> bool:
        """True if <think> tags in the text of the last answer are written as they stand."""
        return MARK in self._try([_user("a"), _assistant(with_thoughts(MARK, "b"))])

    def _try(
        self,
        messages: Messages,
        tools: list[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """The text, empty where the template refuses."""
        try:
            return self.render(messages, tools, add_generation_prompt)
        except ChatTemplateError:
            return ""


def takes_text(render: Render) -> bool:
    """True if the content of a message may be a text; False if it must be a list of parts.

    The templates of Idefics 3, SmolVLM and LLaVA-NeXT leave a text out, or refuse it.
    """
    asked = [_user(MARK)]
    for one in (render, with_parts(render)):
        try:
            if MARK in one(asked, None, True):
                return one is render
        except ChatTemplateError:
            continue
    return True


def with_parts(render: Render) -> Render:
    """The template, given the text of each message as a list of one part."""

    def with_lists(
        messages: Messages, tools: list[dict[str, Any]] | None, add_generation_prompt: bool
    ) -> str:
        listed = [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            if isinstance(message.get("content"), str)
            else message
            for message in messages
        ]
        return render(listed, tools, add_generation_prompt)

    return with_lists


def unasked_prompt(render: Render, special_tokens: Iterable[str]) -> str:
    """The generation prompt that a template writes after the last answer though none was asked for.

    The first chat template of Llama 3 and Command A's ignore `add_generation_prompt`. Empty for
    other templates.
    """
    asked = [_user(_OTHER)]
    try:
        question = render(asked, None, False)
        if question != render(asked, None, True):
            return ""
        text = render([*asked, _assistant(MARK)], None, False)
    except ChatTemplateError:
        return ""
    if any(
        one.count(mark) != 1 for one, mark in ((question, _OTHER), (text, _OTHER), (text, MARK))
    ):
        return ""
    _, between, after = _divided(text)
    ending = _common_ending(question.partition(_OTHER)[2], after)
    end = next((token for token in special_tokens if ending.startswith(token)), "")
    prompt = ending.removeprefix(end)
    return prompt if end and prompt.strip() and prompt in between else ""


def _divided(text: str) -> tuple[str, str, str]:
    """The text before the question's mark, between it and the answer's, and after that."""
    before, _, rest = text.partition(_OTHER)
    between, _, after = rest.partition(MARK)
    return before, between, after


def _common_ending(one: str, other: str) -> str:
    """The longest text that both end with."""
    pairs = enumerate(zip(reversed(one), reversed(other), strict=False))
    length = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    return one[len(one) - length :]


def with_thoughts(reasoning: str, answer: str) -> str:
    """Reasoning and answer in one text, as DeepSeek-R1 and Qwen3 write it."""
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{answer}"


def _system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def _user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def _reasoned() -> dict[str, Any]:
    return {**_assistant("b"), "reasoning_content": MARK, "thinking": MARK}


def _called(style: CallStyle, call_id: str) -> Messages:
    """A question, a call, its result and an answer."""
    values: Any = {"q": _VALUE}
    function = {"name": MARK, "arguments": values}
    if style.arguments == "text":
        function["arguments"] = json.dumps(values)
    call = {"id": call_id, "type": "function", "function": function}
    called = {"role": "assistant", "content": style.content, "tool_calls": [call]}
    result = {"role": "tool", "name": MARK, "tool_call_id": call_id, "content": _OTHER}
    return [_user("a"), called, result, _assistant(_THIRD)]


def _tool(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"q": {"type": "integer", "description": "a number"}}}
    function = {"name": name, "description": "looks up", "parameters": schema}
    return {"type": "function", "function": function}
