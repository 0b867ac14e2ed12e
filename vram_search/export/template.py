"""Finds the LLaMA-Factory template that a model needs by its name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from vram_search.errors import InputError
from vram_search.export.slots import SLOTS, WRAPPER_SLOTS, Slots
from vram_search.export.template_names import TEMPLATE_NAMES


@dataclass(frozen=True)
class Template:
    """A LLaMA-Factory template.

    Attributes:
        name: the value of the key `template`.
        default_system: the value of the key `default_system`; None keeps the template's own.
        note: describes how far it agrees with the model's own chat template.
    """

    name: str
    default_system: str | None = None
    note: str = ""


_SMOLLM2 = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_QWEN2 = "You are a helpful assistant."
_LLAMA31 = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
_LLAMA32 = "Cutting Knowledge Date: December 2023\nToday Date: %d %b %Y\n\n"

_BY_NAME: tuple[tuple[str, Template], ...] = (
    (r"qwen3-[\d.]+b.*-instruct-2507", Template("qwen3_nothink")),
    (r"qwen3-[\d.]+b(-base)?", Template("qwen3")),
    (r"qwen2\.5-(coder-)?[\d.]+b-instruct", Template("qwen")),
    (r"qwen2(\.5)?-[\d.]+b(-instruct)?", Template("qwen", _QWEN2)),
    (r"(meta-)?llama-3-.*instruct", Template("llama3")),
    (r"(meta-)?llama-3\.[13]-.*instruct", Template("llama3", _LLAMA31)),
    (r"llama-3\.2-.*instruct", Template("llama3", _LLAMA32)),
    (r"llama-2-.*chat(-hf)?", Template("llama2", note="it ends answers without a space")),
    (r"mistral-7b-instruct-v0\.3", Template("mistral")),
    (r"gemma-3-(4|12|27)b-it", Template("gemma3")),
    (r"gemma-.*-it", Template("gemma")),
    (r"phi-3(\.5)?-mini-.*instruct", Template("phi", note="it lacks the closing end-of-text")),
    (r"phi-4", Template("phi4")),
    (r"smollm2-.*", Template("smollm2", _SMOLLM2)),
    (r"smollm-.*", Template("smollm")),
    (r"yi-.*chat", Template("yi")),
    (
        r"tinyllama-1\.1b-chat.*",
        Template("zephyr", "", "it lacks the line break between question and answer"),
    ),
    (r"granite-3\.\d-.*", Template("granite3", note="it lacks the default system message")),
    (r"olmo-2-.*instruct", Template("olmo", note="it lacks the line break after a question")),
)
"""Templates by the last part of a hub name. `default_system` is the system text of the publisher's
tokenizer for rows without a system message, if that differs from LLaMA-Factory's. It is a pattern
for `strftime` because Llama 3.2 writes the date."""

_BY_MODEL_TYPE = {"qwen3": "qwen3", "gemma": "gemma", "gemma2": "gemma", "gemma3_text": "gemma"}
"""Families with one chat format. Others, such as llama and qwen2, are identified only by name."""


WRAPPER_TEMPLATES = {
    "gemma3": ("gemma3",),
    "gemma3n": ("gemma3n",),
    "gemma4": ("gemma4",),
    "internvl": ("intern_vl",),
    "llama4": ("llama4",),
    "mistral3": ("mistral_small", "ministral3"),
    "qwen2_vl": ("qwen2_vl",),
    "qwen2_5_vl": ("qwen2_vl",),
    "qwen3_vl": ("qwen3_vl_nothink", "qwen3_vl"),
    "qwen3_vl_moe": ("qwen3_vl_nothink", "qwen3_vl"),
    "qwen3_5": ("qwen3_5_nothink", "qwen3_5"),
    "qwen3_5_moe": ("qwen3_5_nothink", "qwen3_5"),
}
"""model_type of a model of several parts -> LLaMA-Factory's templates with its `mm_plugin`
(`data/template.py`): the usual one, and the one with thoughts or of another release."""


def named_template(name: str) -> Template:
    """Returns the template that the user names.

    Raises:
        InputError: LLaMA-Factory has no template of that name.
    """
    if name in TEMPLATE_NAMES:
        return Template(name, note="named by hand")
    close = difflib.get_close_matches(name, TEMPLATE_NAMES, n=3)
    raise InputError(
        f"LLaMA-Factory 0.9.5 has no template {name!r}",
        f"did you mean {' or '.join(close)}?" if close else "they are listed in its README",
    )


def slots_for(model_type: str | None) -> Mapping[str, Slots]:
    """Returns the templates that fit a model: those of its own for a model of several parts, since
    a template for text alone gives such a model no inputs that tell text from images."""
    names = WRAPPER_TEMPLATES.get(model_type or "")
    if names is None:
        return SLOTS
    return {name: WRAPPER_SLOTS[name] for name in names if name in WRAPPER_SLOTS}


def template_by_name(model: str, model_type: str | None, when: date) -> Template:
    """Returns the template of a model by its name or its family.

    Args:
        model: hub name or folder.
        model_type: the one of its `config.json`, if that is known.
        when: the day of the trial.

    Raises:
        InputError: the model is not known; the message explains how to name a template.
    """
    slug = re.split(r"[/\\]", model.rstrip("/\\"))[-1].lower()
    if names := WRAPPER_TEMPLATES.get(model_type or ""):
        thinks = len(names) > 1 and "thinking" in slug
        note = f"chosen by model_type {model_type}, not compared with its tokenizer"
        return Template(names[1 if thinks else 0], note=note)
    for pattern, template in _BY_NAME:
        if re.fullmatch(pattern, slug):
            system = template.default_system and when.strftime(template.default_system)
            note = f"chosen by the name {slug}, not compared with its tokenizer"
            note += f"; {template.note}" if template.note else ""
            return Template(template.name, system, note)
    if model_type in _BY_MODEL_TYPE:
        note = f"chosen by model_type {model_type}, not compared with its tokenizer"
        return Template(_BY_MODEL_TYPE[model_type], note=note)
    family = f" (model_type {model_type})" if model_type else ""
    raise InputError(
        f"no LLaMA-Factory template is known for {model}{family}",
        "name one with --template, for example --template llama3",
    )
