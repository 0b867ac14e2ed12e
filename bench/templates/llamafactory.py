"""Loads LLaMA-Factory's templates without the rest of the package, and encodes rows with them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from vram_search.data import Example

Tokens = list[tuple[int, bool]]
"""Token ids of a row, each with whether it has a loss."""
_ROLES = {"tool": "observation"}
"""Our role -> LLaMA-Factory's."""


def load_templates(folder: Path) -> dict[str, Any]:
    """The templates by name.

    Args:
        folder: holds `llamafactory/`, such as the unpacked wheel. Its media plugins, which need
            torchaudio and more, are replaced by one that changes no message.
    """
    for name in ("llamafactory", "llamafactory.data", "llamafactory.extras"):
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    plugins: Any = ModuleType("llamafactory.data.mm_plugin")
    plugins.get_mm_plugin = lambda name, **tokens: _NoMedia()
    sys.modules[plugins.__name__] = plugins
    module: Any = importlib.import_module("llamafactory.data.template")
    return dict(module.TEMPLATES)


class _NoMedia:
    def process_messages(self, messages: Any, *_: Any) -> Any:
        return messages


def encode(template: Any, tokenizer: Any, row: Example) -> Tokens:
    """The row as LLaMA-Factory's `SupervisedDatasetProcessor` encodes it, uncut."""
    turns = row.turns
    system = next((turn["content"] for turn in turns if turn["role"] == "system"), None)
    messages = [_message(turn) for turn in turns if turn["role"] != "system"]
    tools = json.dumps([tool["function"] for tool in row.tool_list or []]) if row.tools else None
    tokens: Tokens = []
    for source, target in template.encode_multiturn(tokenizer, messages, system, tools):
        tokens += [(token, False) for token in source] + [(token, True) for token in target]
    if template.efficient_eos:
        tokens.append((tokenizer.eos_token_id, True))
    return tokens


def _message(turn: dict[str, Any]) -> dict[str, str]:
    if calls := turn.get("tool_calls"):
        return {"role": "function", "content": json.dumps([call["function"] for call in calls])}
    return {"role": _ROLES.get(turn["role"], turn["role"]), "content": turn["content"]}


def named_tokens(template: Any) -> list[str]:
    """Special tokens that the template names."""
    found = [*template.stop_words]
    for formatter in vars(template).values():
        for slot in getattr(formatter, "slots", None) or ():
            if isinstance(slot, dict):
                found.append(slot["token"])
    return found
