"""The keys of transformers' TrainingArguments in an export: their values and their schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from vram_search.export.fields import (
    GradNorm,
    Optim,
    OutputFolder,
    Rate,
    Scheduler,
    Seed,
    Share,
    Steps,
)
from vram_search.export.trial import ExportedTrial
from vram_search.spec.base import Count, Flag, Spec
from vram_search.spec.point import NoiseAlpha


def training_values(trial: ExportedTrial) -> dict[str, Any]:
    """Returns the trial's training settings under transformers' names."""
    hp, plan, training = trial.hp, trial.plan, trial.training
    noise = hp.neftune_noise_alpha
    return {
        "per_device_train_batch_size": plan.per_device_train_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "learning_rate": hp.learning_rate,
        "max_steps": trial.steps,
        "lr_scheduler_type": training.lr_scheduler_type,
        "warmup_steps": trial.warmup_steps,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        **({"neftune_noise_alpha": noise} if noise else {}),
        "optim": hp.optim,
        "bf16": trial.dtype == "bfloat16",
        "fp16": trial.dtype == "float16",
        "seed": trial.seed,
        "data_seed": trial.seed,
    }


class SharedKeys(Spec):
    """Keys that Axolotl spells as transformers does."""

    gradient_accumulation_steps: Count
    learning_rate: Rate
    max_steps: Count
    warmup_steps: Steps
    weight_decay: Share
    max_grad_norm: GradNorm
    neftune_noise_alpha: NoiseAlpha | None = None
    bf16: Flag = False
    fp16: Flag = False
    seed: Seed

    eval_strategy: Literal["steps", "no"]
    eval_steps: Count | None = None
    load_best_model_at_end: Flag = False
    greater_is_better: Literal[False] | None = None

    output_dir: OutputFolder
    save_strategy: Literal["steps"]
    save_steps: Count
    save_total_limit: Count | None = None
    logging_steps: Count

    @model_validator(mode="after")
    def _keys_agree(self) -> SharedKeys:
        if self.bf16 == self.fp16:
            raise ValueError("one of bf16 and fp16 is expected, and not both")
        if self.warmup_steps > self.max_steps:
            raise ValueError("warmup_steps is above max_steps")
        if (self.eval_strategy == "no") != (self.eval_steps is None):
            raise ValueError("eval_steps is expected with eval_strategy: steps alone")
        if self.eval_steps is None:
            if self.load_best_model_at_end:
                raise ValueError("load_best_model_at_end needs evaluations")
            return self
        if self.eval_steps > self.max_steps:
            raise ValueError("eval_steps is above max_steps: nothing would be evaluated")
        if self.load_best_model_at_end and self.save_steps % self.eval_steps:
            raise ValueError("load_best_model_at_end needs save_steps as a multiple of eval_steps")
        return self


class TrainingKeys(SharedKeys):
    """The keys of TrainingArguments that an export uses."""

    per_device_train_batch_size: Count
    lr_scheduler_type: Scheduler
    optim: Optim
    data_seed: Seed
    per_device_eval_batch_size: Count
    metric_for_best_model: Literal["eval_loss"] | None = None
    report_to: Literal["none"]
