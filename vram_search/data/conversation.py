"""Conversations: messages with roles, ShareGPT's from and value, tool calls, reasoning, parts."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vram_search.data.columns import ROLE_KEYS, is_alternating, is_nothing
from vram_search.data.example import Example, as_json, example_of
from vram_search.data.findings import Findings
from vram_search.errors import Fault
from vram_search.parsing.json_text import parse_json
from vram_search.parsing.parse_error import ParseError
from vram_search.spec.dataset import Tags

CALL = "call"
"""A role of its own in ShareGPT files: an answer that is a tool call."""

ROLES = {
    **dict.fromkeys(("system", "developer", "system_prompt"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "instruction", "client"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "ai"), "assistant"),
    **dict.fromkeys(("bing", "bard", "claude", "gpt4", "gpt-4", "chatbot"), "assistant"),
    **dict.fromkeys(("question", "query", "prompt", "input"), "user"),
    **dict.fromkeys(("answer", "response", "output", "agent", "llm", "gpt-4o"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response"), "tool"),
    **dict.fromkeys(("tool_response", "tool_result", "ipython", "environment"), "tool"),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls", "function-call"), CALL),
}
"""The usual names of roles, in small letters."""

_CONTENT_KEYS = ("content", "value", "text", "parts")
_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_CALL_KEYS = ("tool_calls", "function_call")
_LOSS_KEYS = ("weight", "loss_weight", "train", "training", "loss")
_KNOWN_KEYS = {
    *(*ROLE_KEYS, *_CONTENT_KEYS, *_REASONING_KEYS, *_LOSS_KEYS),
    *(*_CALL_KEYS, "name", "tool_call_id", "tool_name"),
}
_PAIR_ORDER = ("system", "user", "assistant", "tool", CALL)
_HALF_A_CHARACTER = "holds half a character (a lone surrogate such as \\ud83d)"
_WEIGHTED = "have answers with a weight between 0 and 1: it counts as 1"
_TRIMMED = "end without an answer: the turns after the last answer are left out"
NUMBERS = "have numbers, which are taken as text"
NO_ROLE, NO_TEXT = "has no role", "has no text"
UNKNOWN_ROLE = "unknown role"


@dataclass(frozen=True)
class MessageNames:
    """Keys and roles inside a message, where they are not the usual ones."""

    role: str | None = None
    content: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    loss: str | None = None

    @classmethod
    def of(cls, tags: Tags) -> MessageNames:
        """Those of the study or a dataset_info.json."""
        named = {
            tags.user_tag: "user",
            tags.assistant_tag: "assistant",
            tags.system_tag: "system",
            tags.observation_tag: "tool",
            tags.function_tag: CALL,
        }
        roles = {name: role for name, role in named.items() if name is not None}
        return cls(tags.role_tag, tags.content_tag, roles)


class RowFaultError(Exception):
    """A row that cannot be used."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass
class _Turn:
    role: str
    content: str
    more: dict[str, Any]
    is_trained: bool = True
    tools: list[Any] = field(default_factory=list)


def parse_conversation(
    messages: Any,
    place: str,
    names: MessageNames,
    findings: Findings,
    *,
    system: str = "",
    tools: list[Any] | None = None,
) -> Example:
    """A list of messages, or JSON of one, as an Example.

    Args:
        place: row and field, for a message.
        system: used where the conversation has no system message of its own.

    Raises:
        RowFaultError: it cannot be used.
    """
    if isinstance(messages, str):
        messages = parsed_json(messages, place)
    messages = unfolded(messages)
    if not isinstance(messages, list) or not messages:
        raise RowFaultError(Fault(place, "is not a list of messages"))
    turns = []
    for index, message in enumerate(messages):
        turn = _parse_message(message, f"{place}[{index}]", names, findings)
        if turn is not None:
            turns.append(turn)
    if system and (not turns or turns[0].role != "system"):
        turns.insert(0, _Turn("system", system, {}))
    return finished(turns, place, findings, tools)


def unfolded(messages: Any) -> Any:
    """Messages one by one, where they are lists by key or pairs of a question and an answer.

    `datasets` keeps a sequence of objects as one object of lists; XTuner and Firefly write
    {"input": ..., "output": ...} and {"human": ..., "assistant": ...} for two messages.
    """
    if isinstance(messages, dict):
        lists = list(messages.values())
        if lists and all(isinstance(one, list) and len(one) == len(lists[0]) for one in lists):
            rows = zip(*lists, strict=True)
            messages = [dict(zip(messages, values, strict=True)) for values in rows]
    if not isinstance(messages, list):
        return messages
    if is_alternating(messages):
        roles = ("user", "assistant")
        return [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)]
    return [turn for message in messages for turn in _pair_as_turns(message)]


def _pair_as_turns(message: Any) -> list[Any]:
    if results := _tool_results(message):
        return results
    is_pair = isinstance(message, dict) and not {*ROLE_KEYS} & message.keys()
    roles = {key: _role(key, MessageNames()) for key in message} if is_pair else {}
    if not {"user", "assistant"} <= set(roles.values()) or None in roles.values():
        return [message]
    texts = [(role, message[key]) for key, role in roles.items() if message[key]]
    in_order = sorted(texts, key=lambda turn: _PAIR_ORDER.index(str(turn[0])))
    return [{"role": role, "content": text} for role, text in in_order]


def _tool_results(message: Any) -> list[Any]:
    """Messages of a tool in place of Anthropic's parts `tool_result`, then the other parts."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return []
    found = [part for part in content if _is_part(part) and part["type"] == "tool_result"]
    turns = [
        {"role": "tool", "content": part.get("content"), "tool_call_id": part.get("tool_use_id")}
        for part in found
    ]
    others = [part for part in content if part not in found]
    return [*turns, *([{**message, "content": others}] if others else [])] if turns else []


def finished(
    turns: list[_Turn], place: str, findings: Findings, tools: list[Any] | None
) -> Example:
    """The turns up to the last answer."""
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise RowFaultError(Fault(place, "does not hold an answer of the assistant"))
    if answers[-1] + 1 < len(turns):
        findings.counts[_TRIMMED] += 1
        turns = turns[: answers[-1] + 1]
    untrained = [index for index in answers if not turns[index].is_trained]
    if len(untrained) == len(answers):
        raise RowFaultError(Fault(place, "has no answer that is to be trained (weight 0)"))
    listed = (tools or []) + [tool for turn in turns for tool in turn.tools]
    return example_of([(t.role, t.content, t.more) for t in turns], listed, untrained)


def question_and_answer(pairs: list[tuple[str, str]], tools: list[Any] | None = None) -> Example:
    """(role, content) pairs that were checked before."""
    return example_of([(role, content, {}) for role, content in pairs], tools)


def _parse_message(message: Any, at: str, names: MessageNames, findings: Findings) -> _Turn | None:
    """None for an empty system message."""
    if not isinstance(message, dict):
        raise RowFaultError(Fault(at, "is not an object"))
    role_key = names.role or _first_key(message, ROLE_KEYS)
    content_key = names.content or _first_key(message, _CONTENT_KEYS)
    said = message.get(role_key)
    role = _role(said, names)
    if role_key not in message:
        raise RowFaultError(Fault(at, f"{NO_ROLE}; its keys: {', '.join(map(str, message))}"))
    if role is None:
        known = ", ".join(sorted({*names.roles, "system", "user", "assistant", "tool"}))
        raise RowFaultError(Fault(f"{at}.{role_key}", UNKNOWN_ROLE, said, known))
    others = message.keys() - {*_KNOWN_KEYS, role_key, content_key, names.loss}
    if others and not message.keys() & {content_key, *_CALL_KEYS, *_REASONING_KEYS}:
        raise RowFaultError(Fault(at, f"{NO_TEXT}; its keys: {', '.join(map(str, message))}"))
    for key in others:
        findings.unused[f"messages[].{key}"] += 1
    turn = _Turn(role, "", {})
    _add_content(turn, message.get(content_key), f"{at}.{content_key}", findings)
    if role == CALL:
        turn = _Turn("assistant", "", {"tool_calls": _calls(turn.content, at)})
    if turn.role == "assistant":
        _add_answer_fields(turn, message, at, names, findings)
    elif turn.role == "tool":
        for key in ("name", "tool_call_id"):
            if isinstance(message.get(key), str):
                turn.more[key] = message[key]
    elif not turn.content.strip():
        if turn.role == "system":
            return None
        raise RowFaultError(Fault(f"{at}.{content_key}", "is not text, or empty"))
    _check_letters(as_json(turn.more) if turn.more else "", at)
    return turn


def _first_key(message: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((key for key in keys if key in message), keys[0])


def _role(said: Any, names: MessageNames) -> str | None:
    if not isinstance(said, str):
        return None
    return names.roles.get(said) or ROLES.get(said.strip().lower())


def _add_content(turn: _Turn, content: Any, at: str, findings: Findings) -> None:
    if is_nothing(content):
        return
    if isinstance(content, bool) or not isinstance(content, (str, int, float, list, dict)):
        raise RowFaultError(Fault(at, "is not text, or empty"))
    if isinstance(content, (int, float)):
        findings.counts[NUMBERS] += 1
        content = str(content)
    if isinstance(content, dict) or (isinstance(content, list) and turn.role in ("tool", CALL)):
        if turn.role not in ("tool", CALL):
            raise RowFaultError(Fault(at, "is not text, or empty"))
        parts = content if isinstance(content, list) else []
        if not (parts and all(_is_part(part) for part in parts)):
            content = as_json(content)
    if isinstance(content, str):
        _check_letters(content, at)
        turn.content = content
        return
    for part in content:
        _add_part(turn, part, at)


def _is_part(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("type"), str)


def _add_part(turn: _Turn, part: Any, at: str) -> None:
    """A part as OpenAI, TRL or LLaMA-Factory's v1 write it."""
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else None
    if kind is None and isinstance(part, dict) and isinstance(part.get("text"), str):
        kind = "text"
    value = None
    if isinstance(kind, str):
        value = next((part[key] for key in ("text", "value", kind) if part.get(key)), "")
    if kind in ("text", "input_text", "output_text", "refusal") and isinstance(value, str):
        _check_letters(value, at)
        turn.content += value
    elif kind in ("reasoning", "thinking") and isinstance(value, str):
        turn.more["reasoning_content"] = turn.more.get("reasoning_content", "") + value
    elif kind in ("tool_call", "function_call"):
        turn.more.setdefault("tool_calls", []).extend(_calls(value, at))
    elif kind == "tool_use":  # Anthropic
        call = {**part, "arguments": part.get("input")}
        turn.more.setdefault("tool_calls", []).extend(_calls(call, at))
    elif kind in ("tools", "tool"):
        turn.tools += tool_list(value, at)
    else:
        message = f"holds a part of the type {kind!r}; text alone is trained"
        raise RowFaultError(Fault(at, message))


def _add_answer_fields(
    turn: _Turn, message: dict[str, Any], at: str, names: MessageNames, findings: Findings
) -> None:
    for key in _REASONING_KEYS:
        if isinstance(message.get(key), str) and message[key].strip():
            turn.more["reasoning_content"] = message[key]
            break
    if calls := message.get("tool_calls") or message.get("function_call"):
        turn.more["tool_calls"] = _calls(calls, at)
    if not turn.content.strip() and not turn.more.get("tool_calls"):
        findings.empty_answers += 1
        raise RowFaultError(Fault(f"{at}.content", "is not text, or empty"))
    for key in (names.loss,) if names.loss else _LOSS_KEYS:
        weight = message.get(key)
        if isinstance(weight, (bool, int, float)):
            turn.is_trained = bool(weight)
            if 0 < weight < 1:
                findings.counts[_WEIGHTED] += 1


def _calls(value: Any, at: str) -> list[Any]:
    """Tool calls in the form of OpenAI, their arguments as an object."""
    if isinstance(value, str):
        value = parsed_json(value, at)
    calls = []
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowFaultError(Fault(at, "a tool call without the name of its function", call))
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str):
            arguments = parsed_json(arguments, at) if arguments.strip() else {}
        told = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        body = {"name": function["name"], "arguments": {} if arguments is None else arguments}
        calls.append({**told, "type": "function", "function": body})
    return calls


def tool_list(value: Any, at: str) -> list[Any]:
    """The functions that may be called, each as {"type": "function", "function": ...}.

    Raises:
        RowFaultError: they are not a list of objects.
    """
    if isinstance(value, str):
        value = parsed_json(value, at) if value.strip() else []
    if value is None:
        return []
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(tool, dict) for tool in listed):
        raise RowFaultError(Fault(at, "is not a list of functions"))
    _check_letters(as_json(listed), at)
    return [
        tool if "function" in tool else {"type": "function", "function": _as_function(tool)}
        for tool in listed
    ]


def _as_function(tool: dict[str, Any]) -> dict[str, Any]:
    """A function with `parameters`, which Anthropic calls `input_schema`."""
    renamed = {"input_schema": "parameters"} if "parameters" not in tool else {}
    return {renamed.get(key, key): value for key, value in tool.items()}


def parsed_json(text: str, at: str) -> Any:
    """The value of JSON, or of an object as Python prints it.

    Raises:
        RowFaultError: it is none.
    """
    try:
        return parse_json(text, half_pairs="keep")
    except ParseError:
        pass
    try:
        return ast.literal_eval(
            text.strip()
        )  # pandas writes lists into a CSV as Python prints them
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise RowFaultError(Fault(at, "is text, but not JSON", text)) from None


def roles_to_name(row: dict[str, Any]) -> str:
    """Says how a study names the roles of a row's messages that are not known."""
    lists = [value for value in row.values() if isinstance(value, list)]
    said = [
        message.get(_first_key(message, ROLE_KEYS))
        for messages in lists
        for message in messages
        if isinstance(message, dict)
    ]
    names = dict.fromkeys(map(str, said))
    strange = [one for one in names if _role(one, MessageNames()) is None]
    user, assistant = [*strange, "USER", "ASSISTANT"][:2]
    tags = f"user_tag: {user}" + (f", assistant_tag: {assistant}" if len(strange) > 1 else "")
    return f"name the roles under dataset.tags, for example --set 'dataset.tags={{{tags}}}'"


def system_text(value: Any, at: str, findings: Findings) -> str:
    """The text of a row's system field: text, parts (Bedrock), or an object of parts (Gemini).

    Raises:
        RowFaultError: it is something else.
    """
    if isinstance(value, dict):
        value = value.get("parts", value.get("content", value.get("text")))
    if not isinstance(value, list):
        return checked_text(value, at, findings)
    turn = _Turn("system", "", {})
    for part in value:
        _add_part(turn, part, at)
    return turn.content


def _check_letters(text: str, at: str) -> None:
    """JSON can escape half of a surrogate pair; no tokenizer and no UTF-8 file takes it."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RowFaultError(Fault(at, _HALF_A_CHARACTER))


def checked_text(value: Any, at: str, findings: Findings) -> str:
    """A field's text; a number is taken as text, and nothing as an empty one.

    Raises:
        RowFaultError: it is something else.
    """
    if is_nothing(value):
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        findings.counts[NUMBERS] += 1
        return str(value)
    if not isinstance(value, str):
        raise RowFaultError(Fault(at, "is not text"))
    _check_letters(value, at)
    return value
