"""Compares a model's own chat template with LLaMA-Factory's on the rows of the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from vram_search.data import Example
from vram_search.data.chat import ChatTurns
from vram_search.data.chat_abilities import ChatTemplateError
from vram_search.data.chat_render import template_renderer
from vram_search.export.slots import (
    SLOTS,
    WRAPPER_SLOTS,
    Slots,
    find_default_system,
    with_tokens,
    write_turns,
)
from vram_search.export.template import Template
from vram_search.parsing.json_text import parse_json
from vram_search.parsing.parse_error import ParseError


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template: its Jinja text and the tokens that it names."""

    text: str
    bos_token: str
    eos_token: str
    special_tokens: tuple[str, ...] = ()


def load_chat_template(folder: Path) -> ChatTemplate | None:
    """Reads the chat template in a tokenizer's folder; returns None if none can be read."""
    try:
        config = parse_json((folder / "tokenizer_config.json").read_bytes())
        if not isinstance(config, dict):
            return None
        file = folder / "chat_template.jinja"
        text = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    except (OSError, ValueError, ParseError):
        return None
    if not isinstance(text, str):
        return None
    added = config.get("added_tokens_decoder")
    every = added.values() if isinstance(added, dict) else ()
    tokens = tuple(str(token.get("content", "")) for token in every if isinstance(token, dict))
    return ChatTemplate(text, _token(config, "bos_token"), _token(config, "eos_token"), tokens)


def _token(config: dict[str, Any], name: str) -> str:
    value = config.get(name) or ""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value)


def match_template(
    chat: ChatTemplate,
    examples: Sequence[Example],
    preferred: str | None,
    when: date,
    candidates: Mapping[str, Slots] = SLOTS,
) -> Template | None:
    """Finds the LLaMA-Factory template that gives these rows the same text as the model's own.

    Args:
        chat: the model's own chat template.
        examples: rows to compare on.
        preferred: template to take if several agree (some differ only in stop words); without it,
            the one with the default system message most like the model's is taken.
        when: the day of the trial, for chat templates that write the date.
        candidates: the templates that are compared.
    """
    try:
        split = chat_turns(chat, when).split
        own = [split(example) for example in examples]
        source = split(Example((("user", "Q"), ("assistant", "A"))))[0][0]
    except ChatTemplateError:
        return None
    note = f"same text as the model's own chat template in {len(own)} rows compared"
    best: tuple[float, Template] | None = None
    for name, unfilled in candidates.items():
        slots = with_tokens(unfilled, chat.bos_token, chat.eos_token)
        system = find_default_system(slots, source)
        if system is None:
            continue
        theirs = [write_turns(slots, system, example) for example in examples]
        likeness = SequenceMatcher(None, system, slots.default_system).ratio()
        likeness += 1 if name == preferred else 0
        if theirs == own and (best is None or likeness > best[0]):
            own_system = None if system == slots.default_system else system
            best = (likeness, Template(name, own_system, note))
    return best and best[1]


def count_differing(
    template: Template, chat: ChatTemplate, examples: Iterable[Example], when: date
) -> int | None:
    """Counts the rows whose text differs from the model's own template; None if unknown."""
    known = {**SLOTS, **WRAPPER_SLOTS}
    if template.name not in known:
        return None
    slots = with_tokens(known[template.name], chat.bos_token, chat.eos_token)
    system = slots.default_system if template.default_system is None else template.default_system
    try:
        split = chat_turns(chat, when).split
        return sum(write_turns(slots, system, example) != split(example) for example in examples)
    except ChatTemplateError:
        return None


def chat_turns(chat: ChatTemplate, when: date) -> ChatTurns:
    """Splits rows as `train.examples.Encoder` does, without a tokenizer.

    Raises:
        ChatTemplateError: the template is not valid.
    """
    tokens = {"bos_token": chat.bos_token, "eos_token": chat.eos_token}
    return ChatTurns(template_renderer(chat.text, tokens, when), chat.special_tokens)
