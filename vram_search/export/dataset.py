"""Rows in messages form, and the entry by which LLaMA-Factory finds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vram_search.data import Example, Rows
from vram_search.errors import Fault, FaultyFileError

TRAIN, EVAL = "train", "eval"
"""The data sets' names in `dataset_info.json`."""


def dataset_info() -> str:
    """Both files described (LLaMA-Factory `data/parser.py`).

    ASCII, since LLaMA-Factory reads it in the system's own encoding.
    """

    def entry(file_name: str) -> dict[str, Any]:
        return {
            "file_name": file_name,
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        }

    info = {TRAIN: entry("train.json"), EVAL: entry("eval.json")}
    return json.dumps(info, indent=2) + "\n"


def message_files(rows: Rows) -> dict[str, str]:
    """`train.json` and `eval.json`: one row a line."""
    return {"train.json": _messages(rows.train), "eval.json": _messages(rows.eval)}


def _messages(examples: Sequence[Example]) -> str:
    lines = [json.dumps({"messages": example.turns}, ensure_ascii=False) for example in examples]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def check_turns(examples: Sequence[Example], split: str) -> None:
    """
    Raises:
        FaultyFileError: LLaMA-Factory would drop rows (`SharegptDatasetConverter`).
    """
    faults = [
        Fault(
            f"row {number}",
            "the roles do not take turns; LLaMA-Factory would drop this row",
            ", ".join(role for role, _ in example.messages),
            "an optional system message, then user and assistant in turn",
        )
        for number, example in enumerate(examples, start=1)
        if not _takes_turns(example)
    ]
    if faults:
        raise FaultyFileError(f"the {split} rows", faults[:10])


def _takes_turns(example: Example) -> bool:
    roles = [role for role, _ in example.messages]
    if roles[0] == "system":
        roles = roles[1:]
    return roles == ["user", "assistant"] * (len(roles) // 2)
