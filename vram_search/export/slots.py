"""The text that LLaMA-Factory 0.9.5's templates put around a row (its `data/template.py`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vram_search.data import Example

Turns = list[tuple[str, str]]
"""Pairs of (text without loss, text with loss), turn by turn."""


@dataclass(frozen=True)
class Slots:
    """The texts of a template, with `{}` in the place of the content.

    Attributes:
        prefix: before everything; "BOS" and "EOS" in any slot stand for the tokenizer's tokens.
        default_system: system text for rows without a system message; may be empty.
        system_in_user: the system text goes into the first user turn (`Llama2Template`).
    """

    user: str
    assistant: str
    system: str
    prefix: str = ""
    default_system: str = ""
    system_in_user: bool = False


_CHATML = Slots(
    user="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    assistant="{}<|im_end|>\n",
    system="<|im_start|>system\n{}<|im_end|>\n",
)

SLOTS: dict[str, Slots] = {
    "qwen": replace(
        _CHATML,
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    # ReasoningTemplate with enable_thinking: the empty thought is part of the text with loss.
    "qwen3": replace(_CHATML, assistant="<think>\n\n</think>\n\n{}<|im_end|>\n"),
    "qwen3_nothink": _CHATML,
    "smollm": _CHATML,
    "smollm2": replace(
        _CHATML,
        default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face.",
    ),
    "yi": _CHATML,
    "chatml": _CHATML,
    "llama3": Slots(
        user="<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        assistant="{}<|eot_id|>",
        system="<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        prefix="BOS",
    ),
    "mistral": Slots(
        user="[INST] {}[/INST]",
        assistant=" {}EOS",
        system="{}\n\n",
        prefix="BOS",
        system_in_user=True,
    ),
    # Not gemma2: its `efficient_eos` appends an <eos> that the models' own template lacks.
    "gemma": Slots(
        user="<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
        assistant="{}<end_of_turn>\n",
        system="{}\n\n",
        prefix="BOS",
        system_in_user=True,
    ),
    "phi": Slots(
        user="<|user|>\n{}<|end|>\n<|assistant|>\n",
        assistant="{}<|end|>\n",
        system="<|system|>\n{}<|end|>\n",
    ),
    "phi4": Slots(
        user="<|im_start|>user<|im_sep|>{}<|im_end|><|im_start|>assistant<|im_sep|>",
        assistant="{}<|im_end|>",
        system="<|im_start|>system<|im_sep|>{}<|im_end|>",
    ),
    "granite3": Slots(
        user="<|start_of_role|>user<|end_of_role|>{}<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>",
        assistant="{}<|end_of_text|>\n",
        system="<|start_of_role|>system<|end_of_role|>{}<|end_of_text|>\n",
    ),
    "olmo": Slots(user="<|user|>\n{}<|assistant|>\n", assistant="{}EOS", system="{}", prefix="EOS"),
    "zephyr": Slots(
        user="<|user|>\n{}EOS<|assistant|>\n",
        assistant="{}EOS",
        system="<|system|>\n{}EOS",
        default_system="You are Zephyr, a helpful assistant.",
    ),
    "llama2": Slots(
        user="BOS[INST] {} [/INST]",
        assistant="{}EOS",
        system="<<SYS>>\n{}\n<</SYS>>\n\n",
        system_in_user=True,
    ),
}

_THINKING = replace(_CHATML, assistant=SLOTS["qwen3"].assistant)
_MISTRAL_SMALL = Slots(
    user="[INST]{}[/INST]",
    assistant="{}EOS",
    system="[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT]",
    prefix="BOS",
)
WRAPPER_SLOTS: dict[str, Slots] = {
    "gemma3": SLOTS["gemma"],
    "qwen2_vl": replace(_CHATML, default_system="You are a helpful assistant."),
    "qwen3_vl": _THINKING,
    "qwen3_vl_nothink": _CHATML,
    "qwen3_5": _THINKING,
    "qwen3_5_nothink": _CHATML,
    "mistral_small": _MISTRAL_SMALL,
    "ministral3": replace(_MISTRAL_SMALL, system="{}\n\n", system_in_user=True),
    "llama4": Slots(
        user="<|header_start|>user<|header_end|>\n\n{}<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n",
        assistant="{}<|eot|>",
        system="<|header_start|>system<|header_end|>\n\n{}<|eot|>",
        prefix="BOS",
    ),
}
"""Templates of models of several parts, which have an `mm_plugin`. Models of text alone are never
compared with them."""


def with_tokens(slots: Slots, bos_token: str, eos_token: str) -> Slots:
    """Returns the slots with a tokenizer's own tokens in them."""

    def fill(text: str) -> str:
        return text.replace("BOS", bos_token).replace("EOS", eos_token)

    return replace(
        slots,
        user=fill(slots.user),
        assistant=fill(slots.assistant),
        system=fill(slots.system),
        prefix=fill(slots.prefix),
    )


def write_turns(slots: Slots, default_system: str, example: Example) -> Turns:
    """Writes the row as `Template._encode` and `Llama2Template._encode` do."""
    messages = list(example.messages)
    system = default_system
    if messages[0][0] == "system":
        system = messages.pop(0)[1]
    system_text = slots.system.replace("{}", system) if system else ""
    turns: Turns = []
    for (_, question), (_, answer) in zip(messages[::2], messages[1::2], strict=False):
        inner, before = question, ""
        if not turns:
            before = slots.prefix
            if slots.system_in_user:
                inner = system_text + question
            else:
                before += system_text
        source = before + slots.user.replace("{}", inner)
        turns.append((source, slots.assistant.replace("{}", answer)))
    return turns


def find_default_system(slots: Slots, source: str) -> str | None:
    """Finds the system text in the text before the answer to the question "Q".

    Returns None if the text does not have the form of the slots.
    """
    head, tail = slots.prefix, slots.user.replace("{}", "Q")
    if not (source.startswith(head) and source.endswith(tail)):
        return None
    between = source[len(head) : len(source) - len(tail)]
    if not between:
        return "" if source == head + tail else None
    opening, closing = slots.system.split("{}")
    if slots.system_in_user or not (between.startswith(opening) and between.endswith(closing)):
        return None
    return between[len(opening) : len(between) - len(closing)] or None
