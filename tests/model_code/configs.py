"""Tiny configurations of families without a formula, as their config.json would give them."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}

GEMMA_3 = {
    "model_type": "gemma3",
    "mm_tokens_per_image": 4,
    "image_token_index": 299,
    "text_config": {**SIZES, "model_type": "gemma3_text", "sliding_window": 16},
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    },
}
LFM_2 = {
    **SIZES,
    "model_type": "lfm2",
    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    "block_ff_dim": 64,
    "block_auto_adjust_ff_dim": False,
}
QWEN_3_5 = {
    **SIZES,
    "model_type": "qwen3_5_text",
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
GRANITE_4_H = {
    **SIZES,
    "model_type": "granitemoehybrid",
    "layer_types": ["mamba", "mamba", "mamba", "attention"],
    "num_local_experts": 0,
    "shared_intermediate_size": 64,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
}
STARCODER_2 = {**SIZES, "model_type": "starcoder2"}
STABLE_LM = {**SIZES, "model_type": "stablelm"}
PHI = {**SIZES, "model_type": "phi"}
OLMOE = {
    **SIZES,
    "model_type": "olmoe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
MIXTRAL = {
    **SIZES,
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
GPT_OSS = {
    **SIZES,
    "model_type": "gpt_oss",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 16,
}
TINY = {
    "gemma3": GEMMA_3,
    "lfm2": LFM_2,
    "qwen3_5_text": QWEN_3_5,
    "granitemoehybrid": GRANITE_4_H,
    "starcoder2": STARCODER_2,
    "stablelm": STABLE_LM,
    "phi": PHI,
    "olmoe": OLMOE,
    "mixtral": MIXTRAL,
    "gpt_oss": GPT_OSS,
}
