"""LoRA targets that peft turns into adapters of all experts of a mixture.

transformers 5 stacks the experts of a layer in one parameter. peft 0.19 and newer take a target
with a name that experts had before out of `target_modules` and train the stacked parameters of
every layer in its place (`utils/transformers_weight_conversion.py`, `_convert_peft_config_moe`),
even where a shared expert, a dense layer or attention has a linear layer of this name.
"""

from __future__ import annotations

from collections.abc import Iterable

from vram_search.spec.model_tree import LinearGroup

NAMES = {
    "mixtral": frozenset({"gate", "w1", "w2", "w3"}),
    "qwen2_moe": frozenset({"gate", "gate_proj", "up_proj", "down_proj"}),
}
"""Pattern of transformers' `conversion_mapping.py` -> last parts of the names that peft takes out
(`_MOE_TARGET_MODULE_MAPPING`)."""
PATTERNS = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), "mixtral"),
    **dict.fromkeys(
        (
            *("afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32"),
            *("dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite"),
            *("glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe", "longcat_flash", "mellum", "olmoe"),
            *("qwen3_moe", "qwen3_next", "qwen3_omni_moe", "qwen3_omni_moe_text"),
            *("qwen3_omni_moe_thinker", "sarvam_mla", "solar_open"),
        ),
        "qwen2_moe",
    ),
}
"""model_type of the whole configuration -> its pattern (transformers 5.24,
`_MODEL_TO_CONVERSION_PATTERN`; peft adds mixtral)."""
_ALL_NAMES = frozenset().union(*NAMES.values())


def expert_names(model_type: str) -> frozenset[str]:
    """Returns the last parts of the names that peft takes out of a model's targets."""
    return NAMES.get(PATTERNS.get(model_type, ""), frozenset())


def left_to_experts(linears: Iterable[LinearGroup]) -> tuple[LinearGroup, ...]:
    """Returns the linear layers of a model's text part that get no adapter, for peft would train
    all experts in their place."""
    return tuple(
        group
        for group in linears
        if group.part == "text"
        and not group.is_lora_target
        and group.kind in _ALL_NAMES
        and "Linear" in group.class_name
    )


def kinds(groups: Iterable[LinearGroup]) -> str:
    """Returns the last parts of the names of layers, joined by commas."""
    return ", ".join(dict.fromkeys(group.kind for group in groups))
