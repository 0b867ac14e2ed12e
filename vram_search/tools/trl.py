"""TRL 1.16.0: `trl sft` (`trainer/*_config.py`, `trainer/model_config.py`, `scripts/utils.py`)."""

from __future__ import annotations

from vram_search.tools import training_arguments
from vram_search.tools.keys import ToolKeys, hyperparameter_names, key_set

OWN = key_set(
    """
    activation_offloading assistant_only_loss attn_implementation bnb_4bit_quant_storage
    bnb_4bit_quant_type chat_template_path columns completion_only_loss dataset_config
    dataset_kwargs dataset_name dataset_num_proc dataset_streaming dataset_test_split
    dataset_text_field dataset_train_split datasets dtype eos_token eval_packing
    ignore_bias_buffers load_in_4bit load_in_8bit lora_alpha lora_dropout lora_modules_to_save
    lora_r lora_target_modules lora_target_parameters lora_task_type loss_type max_length
    model_init_kwargs model_name_or_path model_revision packing packing_strategy pad_token
    pad_to_multiple_of padding_free router_aux_loss_coef shuffle_dataset streaming
    test_split_size truncation_mode trust_remote_code use_bnb_nested_quant use_dora use_peft
    use_rslora
    """
)

PREFERENCES = key_set(
    """
    beta center_rewards_coefficient desirable_weight disable_dropout discopop_tau
    f_alpha_divergence_coef f_divergence_type label_smoothing ld_alpha loss_weights
    max_prompt_length precompute_ref_batch_size precompute_ref_log_probs
    ref_model_mixup_alpha ref_model_sync_steps rpo_alpha sync_ref_model undesirable_weight
    use_weighting
    """
)
"""Keys of DPO, KTO and reward models."""

OF_GENERATION = key_set(
    """
    delta epsilon epsilon_high generation_batch_size generation_kwargs importance_sampling_level
    log_completions mask_truncated_completions max_completion_length min_p
    multi_objective_aggregation num_completions_to_print num_generations num_generations_eval
    num_iterations repetition_penalty
    reward_funcs reward_model_name_or_path reward_model_path reward_weights scale_rewards
    steps_per_generation temperature top_entropy_quantile top_k top_p use_transformers_paged
    use_vllm vllm_gpu_memory_utilization vllm_importance_sampling_correction vllm_max_model_length
    vllm_mode vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout
    vllm_tensor_parallel_size
    """
)
"""Keys of trainers that generate texts: GRPO, RLOO."""

OF_RECIPES = key_set(
    """
    auto_insert_empty_system_msg benchmarks callbacks chat_template dataset_configs dataset_splits
    hub_model_revision overwrite_hub_revision push_to_hub_revision system_prompt text_column
    truncation_side wandb_entity wandb_project wandb_run_group
    """
)
"""Keys that the recipes of alignment-handbook and open-r1 add."""

TRL = ToolKeys(
    title="TRL",
    version="1.16.0",
    names={**hyperparameter_names("trl"), "enable_liger_kernel": "use_liger_kernel"},
    defaults={
        **training_arguments.DEFAULTS,
        "gradient_checkpointing": True,
        "dtype": "float32",
        "max_length": 1024,
        "lora_r": 16,
        "lora_dropout": 0.05,
        "load_in_4bit": False,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "use_bnb_nested_quant": False,
        "use_peft": False,
        "packing": False,
    },
    known=OWN
    | PREFERENCES
    | OF_GENERATION
    | OF_RECIPES
    | training_arguments.KNOWN
    | training_arguments.FORMER,
    successors={
        **training_arguments.SUCCESSORS,
        "max_seq_length": "max_length",
        "torch_dtype": "dtype",
        "dataset_mixer": "datasets",
        "dataset_mixture": "datasets",
        "use_flash_attention_2": "attn_implementation",
        "preprocessing_num_workers": "dataset_num_proc",
    },
)
