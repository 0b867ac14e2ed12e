"""Named sets of LoRA modules. This module needs no pydantic, so that shapes load without it."""

from __future__ import annotations

LORA_TARGET_SETS: dict[str, tuple[str, ...]] = {
    "qv": ("q_proj", "v_proj"),
    "qkvo": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qkvo_gu": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"),
    "all": ("all",),
}
"""`all` is every linear layer of the model's blocks."""
