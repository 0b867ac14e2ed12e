"""Tiny configurations of families without a formula, as their config.json would give them."""

from __future__ import annotations

from typing import Any

from bench.tiny import TINY_VISION

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
    "vision_config": TINY_VISION,
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

_VISION = {key: value for key, value in TINY_VISION.items() if key != "model_type"}
_QWEN_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "out_hidden_size": 32,
    "intermediate_size": 64,
    "depth": 2,
    "num_heads": 4,
}
_QWEN_TOKENS = {
    "image_token_id": 290,
    "video_token_id": 291,
    "vision_start_token_id": 292,
    "vision_end_token_id": 293,
}
_QWEN_TEXT: dict[str, Any] = {**SIZES, "bos_token_id": 1, "eos_token_id": 2}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2]}

WRAPPERS: dict[str, dict[str, Any]] = {
    "gemma3": GEMMA_3,
    "gemma4": {
        "model_type": "gemma4",
        "text_config": {
            **SIZES,
            "model_type": "gemma4_text",
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "vocab_size_per_layer_input": 300,
            "hidden_size_per_layer_input": 8,
        },
        "vision_config": {
            "model_type": "gemma4_vision",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        "image_token_id": 290,
        "audio_config": None,
    },
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        "text_config": {**_QWEN_TEXT, "model_type": "qwen2_5_vl_text", "rope_scaling": _MROPE},
        "vision_config": {
            **_QWEN_VISION,
            "model_type": "qwen2_5_vl",
            "fullatt_block_indexes": [1],
        },
        **_QWEN_TOKENS,
    },
    "qwen3_vl": {
        "model_type": "qwen3_vl",
        "text_config": {**_QWEN_TEXT, "model_type": "qwen3_vl_text", "rope_scaling": _MROPE},
        "vision_config": {
            **_QWEN_VISION,
            "model_type": "qwen3_vl",
            "deepstack_visual_indexes": [0],
        },
        **_QWEN_TOKENS,
    },
    "qwen3_5": {
        "model_type": "qwen3_5",
        "text_config": {**QWEN_3_5, "bos_token_id": 1, "eos_token_id": 2},
        "vision_config": {**_QWEN_VISION, "model_type": "qwen3_5"},
        **_QWEN_TOKENS,
    },
    "mistral3": {
        "model_type": "mistral3",
        "text_config": {**SIZES, "model_type": "mistral"},
        "vision_config": {**_VISION, "model_type": "pixtral", "head_dim": 8},
        "image_token_index": 290,
    },
    "llama4": {
        "model_type": "llama4",
        "text_config": {
            **SIZES,
            "model_type": "llama4_text",
            "num_local_experts": 2,
            "intermediate_size_mlp": 64,
            "layer_types": ["chunked_attention", "full_attention"] * 2,
            "attention_chunk_size": 64,
        },
        "vision_config": {
            **_VISION,
            "model_type": "llama4_vision_model",
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        "image_token_index": 290,
    },
    "phi4_multimodal": {
        **SIZES,
        "model_type": "phi4_multimodal",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "vision_config": {**_VISION, "model_type": "phi4_multimodal_vision"},
        "audio_config": {
            "model_type": "phi4_multimodal_audio",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_blocks": 1,
            "num_attention_heads": 4,
            "ext_pw_out_channel": 32,
            "nemo_conv_channels": 32,
        },
    },
    "internvl": {
        "model_type": "internvl",
        "text_config": {**SIZES, "model_type": "qwen3"},
        "vision_config": {
            **_VISION,
            "model_type": "internvl_vision",
            "image_size": [32, 32],
            "patch_size": [8, 8],
        },
        "image_token_id": 290,
    },
    "smolvlm": {
        "model_type": "smolvlm",
        "text_config": {**SIZES, "model_type": "llama"},
        "vision_config": {**_VISION, "model_type": "smolvlm_vision"},
        "image_token_id": 290,
    },
}
"""Models of text and images, by model_type."""
