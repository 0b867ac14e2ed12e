"""A conversation written so that a chat template takes it: what it does not know is put into the
text of its turns."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from vram_search.data.chat_abilities import Abilities, Messages, with_thoughts
from vram_search.data.example import Example

FOLDED = (
    "have a system message, which the chat template does not take: it is put into the first user "
    "turn"
)
FOLDED_LATER = (
    "have a system message after the first turn, which the chat template does not take: it is put "
    "into the next user turn"
)
PLAIN_TOOLS = (
    "have tools, which the chat template does not know: calls are written as JSON in <tool_call> "
    "tags"
)
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
NO_TOOL_LIST = "have a list of tools, which the chat template leaves out"


@dataclass(frozen=True)
class Prepared:
    """Messages and tools for the template.

    Attributes:
        answers: (index, whether it has a loss) of each answer.
        last_thoughts: the last answer with its reasoning, where the template would leave that out.
    """

    messages: Messages
    tools: list[dict[str, Any]] | None
    answers: list[tuple[int, bool]]
    last_thoughts: str = ""


def prepare_messages(example: Example, abilities: Abilities, notes: Counter[str]) -> Prepared:
    """The example's messages, with what the template does not know put into their texts."""
    messages, tools = example.turns, example.tool_list
    for index in example.untrained:
        messages[index]["untrained"] = True
    if tools or any("tool_calls" in m or m["role"] == "tool" for m in messages):
        messages, tools = _with_tools(messages, tools, abilities, notes)
    last_thoughts = _write_reasoning(messages, abilities)
    if messages[0]["role"] == "system" and not abilities.takes_system:
        messages = _folded(messages)
        notes[FOLDED] += 1
    if any(m["role"] == "system" for m in messages[1:]) and not abilities.takes_later_system:
        messages = [*messages[:1], *_folded_later(messages[1:])]
        notes[FOLDED_LATER] += 1
    answers = [
        (index, not message.pop("untrained", False))
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    return Prepared(messages, tools, answers, last_thoughts)


def _folded(messages: Messages) -> Messages:
    """LLaMA-Factory's way for Gemma: system text, an empty line, the question."""
    system, *rest = messages
    for index, message in enumerate(rest):
        if message["role"] == "user":
            text = f"{system['content']}\n\n{message['content']}"
            return [*rest[:index], {**message, "content": text}, *rest[index + 1 :]]
    return [{"role": "user", "content": system["content"]}, *rest]


def _folded_later(messages: Messages) -> Messages:
    folded: Messages = []
    texts: list[str] = []
    for message in messages:
        if message["role"] == "system":
            texts.append(message["content"])
            continue
        if texts and message["role"] == "user":
            message = {**message, "content": "\n\n".join([*texts, message["content"]])}
            texts = []
        folded.append(message)
    return folded


def _with_tools(
    messages: Messages,
    tools: list[dict[str, Any]] | None,
    abilities: Abilities,
    notes: Counter[str],
) -> tuple[Messages, list[dict[str, Any]] | None]:
    style = abilities.tool_calls
    if style is None:
        notes[PLAIN_TOOLS] += 1
        return _plain_tools(messages, tools), None
    if tools and not abilities.writes_tool_list:
        notes[NO_TOOL_LIST] += 1
    for message in messages:
        calls = message.get("tool_calls", ())
        if calls and not message["content"]:
            message["content"] = style.content
        for call in calls if style.arguments == "text" else ():
            arguments = call["function"]["arguments"]
            call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    if not style.takes_any_id:
        _shorten_ids(messages)
    return messages, tools


def _shorten_ids(messages: Messages) -> None:
    """Numbers the calls with ids of nine letters and digits, in the results too."""
    open_ids: list[tuple[str, str]] = []
    count = 0
    for message in messages:
        for call in message.get("tool_calls", ()):
            count += 1
            open_ids.append((call.get("id", ""), f"call{count:05d}"))
            call["id"] = open_ids[-1][1]
        if message["role"] == "tool" and open_ids:
            said = message.get("tool_call_id")
            one = next((pair for pair in open_ids if pair[0] == said), open_ids[0])
            open_ids.remove(one)
            message["tool_call_id"] = one[1]


def _plain_tools(messages: Messages, tools: list[dict[str, Any]] | None) -> Messages:
    """In the form of Hermes and Qwen2.5: calls and results as JSON in tags."""
    plain: Messages = []
    for message in messages:
        message = dict(message)
        calls = message.pop("tool_calls", None)
        message.pop("tool_call_id", None)
        if calls:
            texts = [message["content"]] if message["content"] else []
            texts += [f"<tool_call>\n{_json(call['function'])}\n</tool_call>" for call in calls]
            message["content"] = "\n".join(texts)
        if message["role"] == "tool":
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if plain and plain[-1]["role"] == "user" and plain[-1].get("is_result"):
                plain[-1]["content"] += f"\n{text}"
                continue
            message = {"role": "user", "content": text, "is_result": True}
        plain.append(message)
    for message in plain:
        message.pop("is_result", None)
    if tools:
        listed = "\n".join(_json(tool) for tool in tools)
        text = f"<tools>\n{listed}\n</tools>"
        if plain[0]["role"] == "system":
            plain[0]["content"] += f"\n\n{text}"
        else:
            plain.insert(0, {"role": "system", "content": text})
    return plain


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write_reasoning(messages: Messages, abilities: Abilities) -> str:
    """Puts reasoning where the template looks for it. Returns the last answer with its reasoning
    where the template would leave that out."""
    reads_field_alone = abilities.takes_reasoning and not abilities.reads_thought_tags
    for message in messages:
        is_answer = message["role"] == "assistant" and reads_field_alone
        if is_answer and (thought := _THOUGHT.match(message["content"] or "")):
            message.setdefault("reasoning_content", thought[1].strip())
            message["content"] = message["content"][thought.end() :]
        reasoning = message.get("reasoning_content")
        if reasoning is None:
            continue
        if abilities.takes_reasoning:
            message["thinking"] = reasoning  # gpt-oss's name
        else:
            del message["reasoning_content"]
            message["content"] = with_thoughts(reasoning, message["content"] or "")
    last = messages[-1]
    has_thoughts = last["role"] == "assistant" and "</think>" in (last["content"] or "")
    if has_thoughts and not abilities.takes_reasoning and not abilities.keeps_thoughts:
        return str(last["content"])
    return ""
