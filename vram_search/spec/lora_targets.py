"""Named sets of LoRA modules. This module needs no pydantic, so that shapes load without it."""

from __future__ import annotations

import re
import warnings

LORA_TARGET_SETS: dict[str, tuple[str, ...]] = {
    "qv": ("q_proj", "v_proj"),
    "qkvo": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qkvo_gu": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"),
    "all": ("all",),
}
"""Names of a set's layers in models that are built like Llama; `lora_matching` finds those of
others. `all` is every linear layer of the text model but its head."""

ALL = ("all", "all-linear")
"""`all` as LLaMA-Factory and peft write it."""

_EXPRESSION = re.compile(r"[\\^$*+?{}\[\]|()]")


def is_expression(target: str) -> bool:
    """Returns True for a regular expression, which peft matches against whole module names."""
    return _EXPRESSION.search(target) is not None


def is_module_name(name: str) -> bool:
    """Returns True for a module's name, or the end of its qualified name (`self_attn.q_proj`)."""
    return all(part.isidentifier() or part.isdecimal() for part in name.split("."))


def parse_lora_target(value: object) -> str:
    """Returns a LoRA target as text: the name of a set, module names joined by commas, or a
    regular expression.

    Names may be the ends of qualified names (`self_attn.q_proj`). A regular expression matches
    whole qualified names, as in peft.

    Raises:
        ValueError: the value is none of these.
    """
    if isinstance(value, (list, tuple)):
        if not value or not all(isinstance(name, str) for name in value):
            raise ValueError("a list of LoRA modules holds one or more module names")
        value = ",".join(value)
    if not isinstance(value, str):
        raise ValueError("a LoRA target is a set's name or a list of module names")
    if is_expression(value):
        return _checked_expression(value)
    names = [name.strip() for name in value.split(",")]
    if not all(is_module_name(name) for name in names):
        raise ValueError("a LoRA module is a name such as q_proj or self_attn.q_proj")
    if len(set(names)) != len(names):
        raise ValueError("a LoRA module is named twice")
    if len(names) > 1 and any(name in LORA_TARGET_SETS for name in names):
        raise ValueError("a set's name stands alone, not in a list of modules")
    return ",".join(names)


def compiled_expression(text: str) -> re.Pattern[str]:
    """The pattern of a target that is an expression, without Python's warning that a later version
    may read a set such as `[[a]` in another way: peft matches as this version does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return re.compile(text)


def _checked_expression(text: str) -> str:
    try:
        compiled_expression(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


WITHOUT_DORA = frozenset({"aqlm", "awq", "eetq", "gptq"})
"""Quantisation methods on which peft trains no DoRA (peft 0.21 `tuners/lora/aqlm.py`, `awq.py`,
`eetq.py`, `gptq.py`: "does not support DoRA yet")."""
