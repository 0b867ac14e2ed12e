"""A model, a search space and the records of a trial that tests and benchmarks share."""

from __future__ import annotations

from typing import Any

TINY_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""A real Llama of 0.1 million parameters; its random weights train in milliseconds a step."""

TINY_VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
"""A vision tower for a tiny wrapper such as Gemma 3."""

TINY_SPACE: dict[str, Any] = {
    "optim": ["adamw_torch_fused", "adamw_8bit"],
    "lora_target": ["qv", "all"],
    "lora_rank": [4, 8],
    "cutoff_len": [96, 128],
    "batch_size": [4],
    "learning_rate": {"min": 1e-4, "max": 1e-2},
}
"""A search space that every card holds."""

HYPERPARAMETERS: dict[str, Any] = {
    "optim": "adamw_8bit",
    "lora_target": "all",
    "lora_rank": 16,
    "lora_alpha": 32,
    "cutoff_len": 512,
    "batch_size": 8,
    "learning_rate": 2e-4,
}
"""The hyperparameters of a trial as they are recorded."""

PLAN: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "enable_liger_kernel": False,
    "per_device_eval_batch_size": 4,
    "expandable_segments": True,
}
"""The memory plan of a trial as it is recorded."""
