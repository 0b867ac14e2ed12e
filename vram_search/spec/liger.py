"""The parts of each model that liger-kernel replaces when transformers' `Trainer` asks for it.

Read from liger-kernel 0.8.5, `transformers/monkey_patch.py`, `MODEL_TYPE_TO_APPLY_LIGER_FN`: the
functions' defaults and their patches of a model that exists already. Kernels for layers of a
frozen vision tower and for experts are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

BEFORE = ("input_layernorm", "post_attention_layernorm")
AFTER = ("post_attention_layernorm", "post_feedforward_layernorm")
ALL_FOUR = (*BEFORE, "pre_feedforward_layernorm", "post_feedforward_layernorm")
OF_HEADS = ("q_norm", "k_norm")


@dataclass(frozen=True)
class LigerPatches:
    """Parts of one family that Liger replaces; names are the last parts of modules' names."""

    norms: tuple[str, ...] = BEFORE
    """RMSNorm modules in the layers."""
    final_norm: str = "norm"
    norms_in_place: bool = True
    """The gradient of a norm's output is overwritten with the gradient of its input."""
    final_norm_in_place: bool | None = None
    """The same for the last norm; None: as the others."""
    mlps: tuple[str, ...] = ("mlp",)
    activation: Literal["gated", "gate_up", "squared"] = "gated"
    """`gated`: gate and up are two layers; `gate_up`: one layer, whose output is split; `squared`:
    a ReLU is squared, without a gate."""
    rope: bool = True
    fuses_loss: bool = True
    scales_last_states: bool = False
    """The last hidden states are multiplied before the fused loss, which makes a copy of them."""


_LLAMA = LigerPatches()
_HEAD_ALONE = LigerPatches(norms=(), final_norm="", mlps=(), rope=False)
_GEMMA2 = LigerPatches(norms=ALL_FOUR, norms_in_place=False)
_GEMMA3 = replace(_GEMMA2, norms=(*ALL_FOUR, *OF_HEADS))
_GEMMA4 = replace(_GEMMA3, rope=False)
_OLMO2 = LigerPatches(norms=AFTER, norms_in_place=False, final_norm_in_place=True)
_QWEN3 = LigerPatches(norms=(*BEFORE, *OF_HEADS))
_QWEN3_NEXT = replace(_QWEN3, norms_in_place=False, rope=False)
_QWEN3_VL = replace(_QWEN3, mlps=())
_GLM4 = LigerPatches(
    norms=(*BEFORE, "post_self_attn_layernorm", "post_mlp_layernorm"),
    norms_in_place=False,
    activation="gate_up",
    rope=False,
)
_DEEPSEEK = LigerPatches(
    norms=(*BEFORE, "q_a_layernorm", "kv_a_layernorm"), mlps=("mlp", "shared_experts"), rope=False
)

LIGER: dict[str, LigerPatches] = {
    **dict.fromkeys(("llama", "smollm3", "mistral", "ministral", "hunyuan_v1_dense"), _LLAMA),
    "qwen2": _LLAMA,
    **dict.fromkeys(
        ("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"),
        replace(_LLAMA, rope=False),  # transformers 5 calls another function than Liger replaces
    ),
    "granite": replace(_LLAMA, fuses_loss=False),
    "mixtral": replace(_LLAMA, mlps=()),
    "hunyuan_v1_moe": replace(_LLAMA, mlps=()),
    "gpt_oss": replace(_LLAMA, mlps=()),
    **dict.fromkeys(
        ("llama4", "llama4_text"),
        replace(_LLAMA, mlps=("feed_forward", "shared_expert"), rope=False),
    ),
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "phi3": replace(_LLAMA, activation="gate_up"),
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gemma4": _GEMMA4,
    "gemma4_text": _GEMMA4,
    "olmo2": _OLMO2,
    "olmo3": _OLMO2,
    "exaone4": LigerPatches(norms=(*AFTER, *OF_HEADS), norms_in_place=False),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_text", "qwen3_vl_moe", "qwen3_vl_moe_text"), _QWEN3_VL),
    **dict.fromkeys(("qwen3_5", "qwen3_5_text"), _QWEN3_NEXT),
    **dict.fromkeys(
        ("qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"),
        replace(_QWEN3_NEXT, mlps=("mlp", "shared_expert")),
    ),
    "glm4": _GLM4,
    "glm4v": replace(_GLM4, norms_in_place=True),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v4": replace(_DEEPSEEK, norms=BEFORE, mlps=()),
    "falcon_h1": LigerPatches(
        norms=("input_layernorm", "pre_ff_layernorm"),
        final_norm="final_layernorm",
        mlps=("feed_forward",),
        scales_last_states=True,
    ),
    "nemotron": LigerPatches(norms=(), final_norm="", activation="squared", rope=False),
    "mllama": _LLAMA,
    "mllama_text_model": _LLAMA,
}
"""By the `model_type` of the model that is loaded."""
AS_THEIR_TEXT = ("llava", "internvl", "smolvlm")
"""Models with several parts whose layers are patched as their text model's; the loss is fused."""


def liger_patches(model_type: str, text_model_type: str) -> LigerPatches | None:
    """Returns what Liger replaces; None for a model that it does not know, which trains without."""
    if model_type in AS_THEIR_TEXT:
        return replace(LIGER.get(text_model_type, _HEAD_ALONE), fuses_loss=True)
    return LIGER.get(model_type)
