"""transformers 5's `TrainingArguments` (`training_args.py`), which most tools pass on."""

from __future__ import annotations

from typing import Any

from vram_search.tools.keys import ToolKeys, hyperparameter_names, key_set

KNOWN = key_set(
    """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs adam_beta1
    adam_beta2 adam_epsilon auto_find_batch_size average_tokens_across_devices
    batch_eval_metrics bf16 bf16_full_eval data_seed dataloader_drop_last dataloader_in_order
    dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers
    dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers
    ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed
    disable_tqdm do_eval do_predict do_train enable_jit_checkpoint eval_accumulation_steps
    eval_delay eval_do_concat_batches eval_on_start eval_steps eval_strategy
    eval_use_gather_object fp16 fp16_full_eval fsdp fsdp_config full_determinism
    gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs
    greater_is_better hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy
    hub_token ignore_data_skip include_for_metrics include_num_input_tokens_seen label_names
    label_smoothing_factor learning_rate length_column_name liger_kernel_config
    load_best_model_at_end local_rank log_level log_level_replica log_on_each_node
    logging_first_step logging_nan_inf_filter logging_steps logging_strategy
    lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps metric_for_best_model
    neftune_noise_alpha num_train_epochs optim optim_args optim_target_modules output_dir
    parallelism_config per_device_eval_batch_size per_device_train_batch_size
    prediction_loss_only project push_to_hub remove_unused_columns report_to
    restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node
    save_only_model save_steps save_strategy save_total_limit seed skip_memory_metrics tf32
    torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
    trackio_bucket_id trackio_space_id trackio_static_space_id train_sampling_strategy
    use_cache use_cpu use_liger_kernel warmup_steps weight_decay
    generation_config generation_max_length generation_num_beams predict_with_generate
    sortish_sampler
    """
)
"""With those of `Seq2SeqTrainingArguments`, whose last lines these are."""

FORMER = key_set(
    """
    bf16_opt_level dispatch_batches fp16_backend fp16_opt_level
    group_by_length half_precision_backend hub_model_revision include_inputs_for_metrics
    include_tokens_per_second jit_mode_eval logging_dir mp_parameters no_cuda
    overwrite_output_dir past_index ray_scope save_safetensors split_batches torchdynamo
    tpu_metrics_debug tpu_num_cores use_ipex use_legacy_prediction_loop use_mps_device
    warmup_ratio xpu_backend
    """
)
"""Keys of transformers 4 that have no successor and change no bytes."""

SUCCESSORS = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_token": "hub_token",
    "push_to_hub_model_id": "hub_model_id",
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
}
"""Former names, and the next ones (transformers 6) of gradient checkpointing."""

DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "optim": "adamw_torch_fused",
    "eval_strategy": "no",
    "use_liger_kernel": False,
    "prediction_loss_only": False,
}
"""Defaults of the keys that decide bytes."""

NAMES = {"enable_liger_kernel": "use_liger_kernel"}
LORA_CONFIG = hyperparameter_names("peft")
"""peft's LoraConfig (peft `tuners/lora/config.py`), which Unsloth's `get_peft_model` follows."""

PEFT = ToolKeys(
    "peft and transformers 5", "", {**NAMES, **LORA_CONFIG}, DEFAULTS, KNOWN | FORMER, SUCCESSORS
)
UNSLOTH = ToolKeys("Unsloth", "2026.10", LORA_CONFIG, DEFAULTS, KNOWN | FORMER, SUCCESSORS)
