"""A model's own chat template, compared with LLaMA-Factory's on the rows that are trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from vram_search.data import Example
from vram_search.export.slots import (
    SLOTS,
    Turns,
    find_default_system,
    with_tokens,
    write_turns,
)
from vram_search.export.template import Template

Render = Callable[[list[dict[str, str]], bool], str]
"""Messages as text; the flag adds the generation prompt."""


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template: Jinja text and the tokens it names."""

    text: str
    bos_token: str
    eos_token: str


class UnrenderableError(Exception):
    """The chat template refuses a row, rewrites earlier turns, or cannot be run here."""


def load_chat_template(folder: Path) -> ChatTemplate | None:
    """The chat template in a tokenizer's folder; None where there is none that can be read."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        file = folder / "chat_template.jinja"
        text = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    except (OSError, ValueError):
        return None
    if not isinstance(text, str):
        return None
    return ChatTemplate(text, _token(config, "bos_token"), _token(config, "eos_token"))


def _token(config: dict[str, Any], name: str) -> str:
    value = config.get(name) or ""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value)


def match_template(
    chat: ChatTemplate, examples: Sequence[Example], preferred: str | None, when: datetime
) -> Template | None:
    """The LLaMA-Factory template that gives these rows the same text as the model's own one.

    Args:
        chat: the model's own.
        examples: rows to compare on.
        preferred: taken where several agree (some differ in stop words alone); without it, the one
            whose default system message is most like the model's.
        when: the day of the trial, for chat templates that tell the date.
    """
    try:
        render = _renderer(chat, when)
        own = [own_turns(render, example) for example in examples]
        source = own_turns(render, Example((("user", "Q"), ("assistant", "A"))))[0][0]
    except UnrenderableError:
        return None
    note = f"same text as the model's own chat template in {len(own)} rows compared"
    best: tuple[float, Template] | None = None
    for name, unfilled in SLOTS.items():
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
    template: Template, chat: ChatTemplate, examples: Iterable[Example], when: datetime
) -> int | None:
    """How many rows read differently than by the model's own template; None: cannot be told."""
    if template.name not in SLOTS:
        return None
    slots = with_tokens(SLOTS[template.name], chat.bos_token, chat.eos_token)
    system = slots.default_system if template.default_system is None else template.default_system
    try:
        render = _renderer(chat, when)
        return sum(
            write_turns(slots, system, example) != own_turns(render, example)
            for example in examples
        )
    except UnrenderableError:
        return None


def own_turns(render: Render, example: Example) -> Turns:
    """The row as `train.examples.encode` takes it from the tokenizer's chat template.

    Raises:
        UnrenderableError: the template refuses the row or rewrites earlier turns.
    """
    turns: Turns = []
    done, messages = "", example.turns
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(messages[:index], True)
        after = render(messages[: index + 1], False)
        if not before.startswith(done) or not after.startswith(before):
            raise UnrenderableError
        turns.append((before[len(done) :], after[len(before) :]))
        done = after
    return turns


def _renderer(chat: ChatTemplate, when: datetime) -> Render:
    """As transformers renders chat templates (`utils/chat_template_utils.py`)."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = when.strftime
    try:
        compiled = environment.from_string(chat.text)
    except TemplateError:
        raise UnrenderableError from None

    def render(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            return compiled.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=chat.bos_token,
                eos_token=chat.eos_token,
                tools=None,
                documents=None,
            )
        except (TemplateError, TypeError, AttributeError):
            raise UnrenderableError from None

    return render
