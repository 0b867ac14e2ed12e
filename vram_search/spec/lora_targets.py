"""Named sets of LoRA modules. This module needs no pydantic, so that shapes load without it."""

from __future__ import annotations

import re

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


WITHOUT_DORA = frozenset({"aqlm", "awq", "eetq", "gptq"})
"""Quantisation methods on which peft trains no DoRA (peft 0.21 `tuners/lora/aqlm.py`, `awq.py`,
`eetq.py`, `gptq.py`: "does not support DoRA yet")."""
