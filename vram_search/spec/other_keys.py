"""Keys of training tools and other search programs, and what a study has in place of each."""

from __future__ import annotations

PLACES = {
    **dict.fromkeys(("r", "rank", "lora_r"), "search_space.lora_rank"),
    "alpha": "search_space.lora_alpha",
    **dict.fromkeys(("target_modules", "lora_target_modules"), "search_space.lora_target"),
    "dropout": "search_space.lora_dropout",
    "lr": "search_space.learning_rate",
    **dict.fromkeys(("optimizer", "optimizers"), "search_space.optim"),
    **dict.fromkeys(("scheduler", "lr_scheduler"), "search_space.lr_scheduler_type"),
    **dict.fromkeys(
        ("max_length", "max_seq_length", "max_seq_len", "sequence_len", "block_size"),
        "search_space.cutoff_len",
    ),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "train_batch_size", "global_batch_size"),
        "search_space.batch_size (sequences an optimizer step)",
    ),
    "micro_batch_size": "plan.per_device_train_batch_size",
    **dict.fromkeys(("epochs", "num_epochs"), "training.num_train_epochs"),
    "warmup_steps": "training.warmup_ratio (a share of the steps)",
    **dict.fromkeys(
        ("base_model", "model_id", "model_name", "pretrained_model_name_or_path"),
        "model.model_name_or_path",
    ),
    **dict.fromkeys(
        ("path", "data", "file", "files", "train_file", "data_path", "dataset_path"),
        "dataset.train",
    ),
    **dict.fromkeys(
        ("text_column", "text_field", "dataset_text_field", "prompt_column", "response_column"),
        "dataset.columns",
    ),
    "type": "dataset.format",
    "split": "dataset.train (a list of {path: ..., split: ...})",
    **dict.fromkeys(("validation", "validation_file", "eval_file", "test"), "dataset.eval"),
    **dict.fromkeys(("val_set_size", "test_size", "validation_split"), "dataset.val_size"),
    "chat_template": "dataset.template",
    **dict.fromkeys(("n_trials", "num_trials", "max_trials", "num_samples"), "budget.trials"),
    **dict.fromkeys(
        ("timeout", "time", "minutes", "time_limit", "max_hours"), "budget.hours (a number)"
    ),
    "neftune": "search_space.neftune_noise_alpha",
    **dict.fromkeys(
        ("eval_steps", "eval_strategy", "evaluation_strategy"), "training.rungs (shares of a trial)"
    ),
    **dict.fromkeys(("save_steps", "save_strategy"), "training.checkpoint_every (minutes)"),
    **dict.fromkeys(("sampler", "pruner", "search_alg"), "strategy"),
    **dict.fromkeys(
        ("metric", "direction", "metric_for_best_model", "greater_is_better", "objectives"),
        "objective",
    ),
    **dict.fromkeys(("storage", "db", "database_url"), "database"),
    **dict.fromkeys(("study_name", "experiment_name", "experiment"), "study"),
    **dict.fromkeys(("gpu", "device"), "card"),
    **dict.fromkeys(("n_jobs", "num_parallel_trials"), "parallel_trials"),
    "random_seed": "seed",
}
"""Another name -> the key of a study, from its top."""

_NF4 = "the base model is always loaded in 4 bits (NF4), as QLoRA does"
_STOPS = "trials stop early at training.rungs, and the best checkpoint of each is kept"
_LENGTH = "training.max_steps or training.trial_share shorten a trial; budget.hours ends the search"
_ONE_GPU = "a trial trains on one GPU; several GPUs run one worker each"
_PRECISION = "the precision is chosen for the card"
SETTLED = {
    **dict.fromkeys(
        ("quantization", "quantization_bit", "quantize", "bits", "load_in_4bit", "load_in_8bit"),
        _NF4,
    ),
    **dict.fromkeys(("bnb_4bit_quant_type", "double_quantization", "quantization_method"), _NF4),
    **dict.fromkeys(
        ("early_stopping", "early_stopping_patience", "load_best_model_at_end", "patience"), _STOPS
    ),
    **dict.fromkeys(("max_trial_minutes", "max_trial_hours", "trial_timeout"), _LENGTH),
    **dict.fromkeys(("bf16", "fp16", "dtype", "torch_dtype", "tf32"), _PRECISION),
    **dict.fromkeys(("deepspeed", "fsdp", "num_gpus", "n_gpus", "num_processes"), _ONE_GPU),
    **dict.fromkeys(
        ("attn_implementation", "flash_attn", "flash_attention", "flash_attention_2"),
        "the attention is chosen for the model",
    ),
    "report_to": "trackers are a setting of this machine (docs/service.md)",
    "logging_steps": "the loss of every step is recorded",
    "trust_remote_code": "code of a model or a data set is never run",
}
"""A key -> what a study does without one."""
