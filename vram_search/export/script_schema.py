"""What an exported YAML for `train_trial.py` may hold; stricter than the functions it is for."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vram_search.export.fields import (
    Dropout,
    GradNorm,
    NonReentrant,
    Optim,
    OutputFolder,
    Rate,
    Scheduler,
    Seed,
    Share,
    Steps,
    Text,
    check_agreement,
)
from vram_search.spec.base import Count, Flag, Spec
from vram_search.spec.hyperparameters import CutoffLen, Rank


class _Quantization(Spec):
    load_in_4bit: Literal[True]
    bnb_4bit_quant_type: Literal["nf4", "fp4"]
    bnb_4bit_use_double_quant: Flag
    bnb_4bit_compute_dtype: Literal["bfloat16", "float16"]


class _Rows(Spec):
    train: Literal["train.json"]
    eval: Literal["eval.json"]
    tokenizer: Text
    cutoff_len: CutoffLen
    eval_cutoff_len: CutoffLen


class _Lora(Spec):
    r: Rank
    lora_alpha: Count
    lora_dropout: Dropout
    target_modules: Literal["all-linear"] | tuple[Text, ...]
    bias: Literal["none"]


class _PeftLora(_Lora):
    task_type: Literal["CAUSAL_LM"]


class _UnslothLora(_Lora):
    use_gradient_checkpointing: Flag
    random_state: Seed


class _Training(Spec):
    per_device_train_batch_size: Count
    gradient_accumulation_steps: Count
    learning_rate: Rate
    max_steps: Count
    lr_scheduler_type: Scheduler
    warmup_steps: Steps
    weight_decay: Share
    max_grad_norm: GradNorm
    optim: Optim
    bf16: Flag
    fp16: Flag
    seed: Seed
    data_seed: Seed
    per_device_eval_batch_size: Count
    eval_strategy: Literal["steps", "no"]
    eval_steps: Count | None = None
    load_best_model_at_end: Flag = False
    metric_for_best_model: Literal["eval_loss"] | None = None
    greater_is_better: Literal[False] | None = None
    output_dir: OutputFolder
    save_strategy: Literal["steps"]
    save_steps: Count
    save_total_limit: Count | None = None
    logging_steps: Count
    report_to: Literal["none"]

    @model_validator(mode="after")
    def _agree(self) -> _Training:
        check_agreement(self)
        return self


class _PeftTraining(_Training):
    gradient_checkpointing: Flag
    gradient_checkpointing_kwargs: NonReentrant
    use_liger_kernel: Flag


class _PeftModel(Spec):
    pretrained_model_name_or_path: Text
    dtype: Literal["bfloat16", "float16"]
    attn_implementation: Literal["sdpa"]


class _UnslothModel(Spec):
    model_name: Text
    max_seq_length: CutoffLen
    dtype: Literal["bfloat16", "float16"]
    load_in_4bit: Literal[True]
    use_exact_model_name: Literal[True]
    use_gradient_checkpointing: Flag
    random_state: Seed


class PeftConfig(Spec):
    """Arguments of transformers' and peft's classes, as `train_trial.py` passes them."""

    loader: Literal["peft"]
    model: _PeftModel
    quantization: _Quantization
    lora: _PeftLora
    rows: _Rows
    training: _PeftTraining


class UnslothConfig(Spec):
    """Arguments of Unsloth's functions, as `train_trial.py` passes them."""

    loader: Literal["unsloth"]
    model: _UnslothModel
    lora: _UnslothLora
    rows: _Rows
    training: _Training
