"""A trial for `trl sft` of TRL 1.16.0 (`SFTConfig`, `ModelConfig`): keys, rows, a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import model_validator

from vram_search.data import Example
from vram_search.errors import Fault
from vram_search.export.evaluation import checkpoint_keys, evaluation_keys
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
    schema_faults,
    target_faults,
)
from vram_search.export.launch import Launch
from vram_search.export.tool import Groups, Tool
from vram_search.export.trial import ExportedTrial
from vram_search.spec.base import Count, Flag, Spec
from vram_search.spec.hyperparameters import CutoffLen, Rank

ROWS = "trl-rows"
"""A folder of its own: `datasets` tells the splits by the names of the files in it."""


def _config(trial: ExportedTrial) -> Groups:
    hp, plan, training = trial.hp, trial.plan, trial.training
    answers_once = _answers_once(trial)
    return {
        "model": {
            "model_name_or_path": trial.model,
            "dtype": trial.dtype,
            "attn_implementation": "sdpa",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "use_bnb_nested_quant": True,
            "use_liger_kernel": plan.enable_liger_kernel,
            "gradient_checkpointing": plan.gradient_checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
        },
        "method": {
            "use_peft": True,
            "lora_target_modules": _written(trial.target_modules),
            "lora_r": hp.lora_rank,
            "lora_alpha": hp.lora_alpha,
            "lora_dropout": 0.0,
            "lora_task_type": "CAUSAL_LM",
        },
        "dataset": {
            "dataset_name": f"./{ROWS}",
            "dataset_train_split": "train",
            "dataset_test_split": "test",
            "max_length": hp.cutoff_len,
            "truncation_mode": "keep_start",
            "packing": False,
            "completion_only_loss": answers_once,
            "assistant_only_loss": not answers_once,
        },
        "train": {
            "per_device_train_batch_size": plan.per_device_train_batch_size,
            "gradient_accumulation_steps": plan.gradient_accumulation_steps,
            "learning_rate": hp.learning_rate,
            "max_steps": trial.steps,
            "lr_scheduler_type": training.lr_scheduler_type,
            "warmup_steps": trial.warmup_steps,
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_grad_norm,
            "optim": hp.optim,
            "bf16": trial.dtype == "bfloat16",
            "fp16": trial.dtype == "float16",
            "seed": trial.seed,
            "data_seed": trial.seed,
        },
        "eval": {
            "per_device_eval_batch_size": plan.per_device_eval_batch_size,
            **evaluation_keys(trial),
        },
        "output": {
            "output_dir": f"saves/{trial.name}.trl",
            **checkpoint_keys(trial),
            "logging_steps": 1,
            "report_to": "none",
        },
    }


def _written(modules: Sequence[str]) -> list[str]:
    """One name alone reaches peft as a text, which it takes for a regular expression of the whole
    path (`ModelConfig.__post_init__`)."""
    if tuple(modules) == ("all",):
        return ["all-linear"]
    return list(modules) if len(modules) > 1 else [rf".*\.{modules[0]}"]


def _read(written: Sequence[str]) -> list[str]:
    if list(written) == ["all-linear"]:
        return ["all"]
    if len(written) == 1:
        return [written[0].removeprefix(".*\\.")]
    return list(written)


def _answers_once(trial: ExportedTrial) -> bool:
    """No row has an answer before its last message."""
    return all(
        role != "assistant"
        for example in (*trial.rows.train, *trial.rows.eval)
        for role, _ in example.messages[:-1]
    )


def _data_files(trial: ExportedTrial) -> dict[str, str]:
    """Prompt and completion, so that the loss begins where the trial's did; messages where a row
    has several answers. `datasets` takes `eval` for the split `test`."""
    answers_once = _answers_once(trial)

    def lines(examples: Sequence[Example]) -> str:
        rows = (
            {"prompt": example.turns[:-1], "completion": example.turns[-1:]}
            if answers_once
            else {"messages": example.turns}
            for example in examples
        )
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    return {
        f"{ROWS}/train.jsonl": lines(trial.rows.train),
        f"{ROWS}/eval.jsonl": lines(trial.rows.eval),
    }


def _notes(trial: ExportedTrial) -> list[str]:
    notes = [
        "TRL keeps a quantised model's adapter in bf16, the trial in fp32: losses may differ, and",
        "fewer bytes are needed. It calls no prepare_model_for_kbit_training, as in the trial.",
        "Rows longer than max_length lose their end; the trial cut question and answer in",
        "proportion. Evaluation rows are cut at max_length too.",
    ]
    if trial.plan.enable_liger_kernel:
        notes.append("use_liger_kernel needs: pip install liger-kernel")
    else:
        notes.append("TRL never holds all logits at once: it needs less than the bytes above.")
    if not _answers_once(trial):
        notes.append("Rows with several answers: assistant_only_loss needs a chat template that")
        notes.append("marks them; TRL brings its own for the common families.")
    if trial.tokenizer:
        notes.append(f"The study read its tokenizer from {json.dumps(trial.tokenizer)};")
        notes.append("TRL reads the model's own.")
    return notes


class TrlConfig(Spec):
    """Keys of `trl sft` that an export uses; TRL accepts a rank of -8 and a batch of 0."""

    model_name_or_path: Text
    dtype: Literal["bfloat16", "float16"]
    attn_implementation: Literal["sdpa"]
    load_in_4bit: Literal[True]
    bnb_4bit_quant_type: Literal["nf4", "fp4"]
    use_bnb_nested_quant: Flag
    use_liger_kernel: Flag
    gradient_checkpointing: Flag
    gradient_checkpointing_kwargs: NonReentrant

    use_peft: Literal[True]
    lora_target_modules: tuple[Text, ...]
    lora_r: Rank
    lora_alpha: Count
    lora_dropout: Dropout
    lora_task_type: Literal["CAUSAL_LM"]

    dataset_name: Literal["./trl-rows"]
    dataset_train_split: Literal["train"]
    dataset_test_split: Literal["test"]
    max_length: CutoffLen
    truncation_mode: Literal["keep_start"]
    packing: Literal[False]
    completion_only_loss: Flag
    assistant_only_loss: Flag

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
    def _agree(self) -> TrlConfig:
        check_agreement(self)
        if self.bf16 != (self.dtype == "bfloat16"):
            raise ValueError("dtype and bf16 disagree: the model would be cast at every step")
        if self.completion_only_loss == self.assistant_only_loss:
            raise ValueError("one of completion_only_loss and assistant_only_loss is expected")
        return self


def _check(config: Mapping[str, Any], modules: Collection[str]) -> list[Fault]:
    faults = schema_faults(TrlConfig, config)
    names = config.get("lora_target_modules")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return faults
    if len(names) == 1 and not re.fullmatch(r"all-linear|\.\*\\\.\w+", names[0]):
        faults.append(Fault("lora_target_modules", "one name alone matches no layer", names[0]))
    elif names != ["all-linear"]:
        faults += target_faults("lora_target_modules", _read(names), modules)
    return faults


def _parse(config: Mapping[str, Any], text: str) -> dict[str, Any]:
    return {
        **config,
        "lora_target": _read(config["lora_target_modules"]),
        "lora_rank": config["lora_r"],
        "cutoff_len": config["max_length"],
        "enable_liger_kernel": config["use_liger_kernel"],
    }


TRL = Tool(
    title="TRL 1.16.0",
    ending=".trl",
    launch=Launch("trl sft --config {file}"),
    config=_config,
    notes=_notes,
    chat_template="the tokenizer's own chat template",
    data_files=_data_files,
    # trainer/sft_trainer.py: the head is fused with the loss, in evaluations too
    eval_tokens=lambda trial: None,
    check=_check,
    parse=_parse,
)
