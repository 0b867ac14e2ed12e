"""Writes rows as messages, and the entry by which LLaMA-Factory finds them.

LLaMA-Factory gets tool calls in ShareGPT form (`SharegptDatasetConverter`): the roles function_call
and observation, and the functions in the column tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from vram_search.data import Example, Rows
from vram_search.data.chat_abilities import with_thoughts
from vram_search.errors import Fault, FaultyFileError, InputError

TRAIN, EVAL = "train", "eval"
"""Names of the data sets in `dataset_info.json`."""
OBSERVATION, CALL = "observation", "function_call"
"""Roles of a tool's result and of a call."""


def dataset_info(rows: Rows) -> str:
    """Returns the description of both files (LLaMA-Factory `data/parser.py`).

    It is ASCII because LLaMA-Factory reads it in the system's own encoding.
    """
    with_tools = any(has_tools(example) for example in (*rows.train, *rows.eval))

    def entry(file_name: str) -> dict[str, Any]:
        tool_column = {"tools": "tools"} if with_tools else {}
        tool_tags = {"observation_tag": OBSERVATION, "function_tag": CALL} if with_tools else {}
        return {
            "file_name": file_name,
            "formatting": "sharegpt",
            "columns": {"messages": "messages", **tool_column},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
                **tool_tags,
            },
        }

    info = {TRAIN: entry("train.json"), EVAL: entry("eval.json")}
    return json.dumps(info, indent=2) + "\n"


def message_files(rows: Rows) -> dict[str, str]:
    """Returns `train.json` and `eval.json` with one row per line, as chat templates take it."""

    def row(example: Example) -> dict[str, Any]:
        tools = {"tools": example.tool_list} if example.tools else {}
        return {"messages": example.turns, **tools}

    return {name: _lines(map(row, examples)) for name, examples in _files(rows)}


def text_files(rows: Rows) -> dict[str, str]:
    """Returns the same files with only text in every turn."""
    with_tools = any(has_tools(example) for example in (*rows.train, *rows.eval))

    def row(example: Example) -> dict[str, Any]:
        bodies = [tool.get("function", tool) for tool in example.tool_list or ()]
        tools = {"tools": json.dumps(bodies, ensure_ascii=False) if bodies else ""}
        return {"messages": text_turns(example), **(tools if with_tools else {})}

    return {name: _lines(map(row, examples)) for name, examples in _files(rows)}


def _files(rows: Rows) -> tuple[tuple[str, Sequence[Example]], ...]:
    return ("train.json", rows.train), ("eval.json", rows.eval)


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def has_tools(example: Example) -> bool:
    """Returns True if a row calls functions or may call them."""
    return bool(example.tools) or any("tool_calls" in fields for fields in example.fields)


def text_turns(example: Example) -> list[dict[str, str]]:
    """Returns roles and texts as in LLaMA-Factory's ShareGPT rows.

    The results of one answer's calls are joined as its converter of OpenAI rows joins them.
    """
    turns: list[dict[str, str]] = []
    for turn in example.turns:
        role, content = turn["role"], turn["content"]
        if reasoning := turn.get("reasoning_content"):
            content = with_thoughts(reasoning, content)
        if calls := turn.get("tool_calls"):
            role = CALL
            content = json.dumps([call["function"] for call in calls], ensure_ascii=False)
        if role == "tool":
            role = OBSERVATION
            if turns and turns[-1]["role"] == OBSERVATION:
                joint = "\n</tool_response>\n<tool_response>\n"
                turns[-1]["content"] += f"{joint}{content}"
                continue
        turns.append({"role": role, "content": content})
    return turns


def check_exportable(rows: Rows) -> None:
    """Checks that the rows can be exported.

    Raises:
        InputError: the rows contain something that no export can represent.
    """
    for example in (*rows.train, *rows.eval):
        if example.is_text:
            raise InputError(
                "rows of plain text cannot be exported: the tools would train them in another way",
                "train them with the tool's own settings for plain text",
            )
        if example.untrained:
            raise InputError(
                "answers without a loss (weight 0) cannot be exported: the tools would learn them",
                "leave those answers out of the rows",
            )


def check_turns(examples: Sequence[Example], split: str) -> None:
    """Checks that LLaMA-Factory keeps all rows.

    Raises:
        FaultyFileError: LLaMA-Factory would drop rows (`SharegptDatasetConverter`).
    """
    faults = [
        Fault(
            f"row {number}",
            "the roles do not take turns; LLaMA-Factory would drop this row",
            ", ".join(turn["role"] for turn in text_turns(example)),
            "an optional system message, then user and assistant in turn",
        )
        for number, example in enumerate(examples, start=1)
        if not _takes_turns(example)
    ]
    if faults:
        raise FaultyFileError(f"the {split} rows", faults[:10])


def _takes_turns(example: Example) -> bool:
    roles = [turn["role"] for turn in text_turns(example)]
    if roles[0] == "system":
        roles = roles[1:]
    asks, answers = roles[::2], roles[1::2]
    return (
        len(asks) == len(answers)
        and {*asks} <= {"user", OBSERVATION}
        and {*answers} <= {"assistant", CALL}
    )
