"""A trial for Axolotl 0.19.0 (its `utils/schemas/*.py`): keys, notes and a stricter schema."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import model_validator

from vram_search.errors import Fault
from vram_search.export.dataset import message_files
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

LIGER_PLUGIN = "axolotl.integrations.liger.LigerPlugin"
LIGER_KERNELS = (
    "liger_rope",
    "liger_rms_norm",
    "liger_glu_activation",
    "liger_fused_linear_cross_entropy",
)
"""What transformers' `use_liger_kernel` switches on together."""

LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
"""Axolotl switches them on where they are not named; the trial was measured without them."""


def _config(trial: ExportedTrial) -> Groups:
    hp, plan, training = trial.hp, trial.plan, trial.training
    tokenizer = {"tokenizer_config": trial.tokenizer} if trial.tokenizer else {}
    liger = {"plugins": [LIGER_PLUGIN], **dict.fromkeys(LIGER_KERNELS, True)}
    targets = trial.target_modules
    return {
        "model": {
            "base_model": trial.model,
            **tokenizer,
            "load_in_4bit": True,
            "bf16": trial.dtype == "bfloat16",
            "fp16": trial.dtype == "float16",
            "tf32": False,
            "attn_implementation": "sdpa",
            "embeddings_skip_upcast": True,
            "gradient_checkpointing": plan.gradient_checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
            **(liger if plan.enable_liger_kernel else {}),
        },
        "method": {
            "adapter": "qlora",
            **(
                {"lora_target_linear": True}
                if targets == ("all",)
                else {"lora_target_modules": list(targets)}
            ),
            "lora_r": hp.lora_rank,
            "lora_alpha": hp.lora_alpha,
            "lora_dropout": 0.0,
            **dict.fromkeys(LORA_KERNELS, False),
        },
        "dataset": {
            "datasets": [_dataset("train.json")],
            "test_datasets": [_dataset("eval.json")],
            "val_set_size": 0.0,
            "dataset_prepared_path": f"prepared/{trial.name}",
            "shuffle_merged_datasets": False,
            "sequence_len": hp.cutoff_len,
            "eval_sequence_len": trial.eval_cutoff_len,
            "excess_length_strategy": "truncate",
            "sample_packing": False,
            "pad_to_sequence_len": False,
            "train_on_inputs": False,
        },
        "train": {
            "micro_batch_size": plan.per_device_train_batch_size,
            "gradient_accumulation_steps": plan.gradient_accumulation_steps,
            "learning_rate": hp.learning_rate,
            "max_steps": trial.steps,
            "lr_scheduler": training.lr_scheduler_type,
            "warmup_steps": trial.warmup_steps,
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_grad_norm,
            "optimizer": hp.optim,
            "seed": trial.seed,
        },
        "eval": {
            "eval_batch_size": plan.per_device_eval_batch_size,
            **_evaluation(trial),
        },
        "output": {
            "output_dir": f"saves/{trial.name}.axolotl",
            **checkpoint_keys(trial),
            "logging_steps": 1,
        },
    }


def _evaluation(trial: ExportedTrial) -> dict[str, Any]:
    keys = evaluation_keys(trial)
    keys.pop("metric_for_best_model", None)  # Axolotl knows no other
    return keys


def _dataset(file: str) -> dict[str, Any]:
    return {
        "path": file,
        "ds_type": "json",
        "split": "train",
        "type": "chat_template",
        "chat_template": "tokenizer_default",
        "field_messages": "messages",
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }


def _notes(trial: ExportedTrial) -> list[str]:
    notes = [
        "load_in_4bit means NF4 with double quantisation here, as in the trial.",
        "Axolotl calls prepare_model_for_kbit_training, which the trial did not: norms are fp32",
        "for a while; embeddings_skip_upcast keeps the embeddings as they were.",
        "Rows longer than sequence_len lose their end; the trial cut question and answer in",
        "proportion. The end of a turn counts in the loss as one token; where a chat template",
        "puts more behind it (a line break), the trial learnt that too.",
        "Axolotl evaluates once before the first step, which the trial did not.",
    ]
    if trial.warmup_steps == 1:
        notes.append("Axolotl makes 2 warm-up steps of 1.")
    if trial.plan.enable_liger_kernel:
        notes.append("The Liger plugin needs: pip install liger-kernel")
    return notes


class _Dataset(Spec):
    path: Literal["train.json", "eval.json"]
    ds_type: Literal["json"]
    split: Literal["train"]
    type: Literal["chat_template"]
    chat_template: Literal["tokenizer_default"]
    field_messages: Literal["messages"]
    roles_to_train: tuple[Literal["assistant"]]
    train_on_eos: Literal["turn"]


class AxolotlConfig(Spec):
    """Keys of Axolotl that an export uses; Axolotl accepts unknown keys and a rank of -8."""

    base_model: Text
    tokenizer_config: Text | None = None
    load_in_4bit: Literal[True]
    bf16: Flag
    fp16: Flag
    tf32: Literal[False]
    attn_implementation: Literal["sdpa"]
    embeddings_skip_upcast: Flag
    gradient_checkpointing: Flag
    gradient_checkpointing_kwargs: NonReentrant
    plugins: tuple[Literal["axolotl.integrations.liger.LigerPlugin"]] | None = None
    liger_rope: Literal[True] | None = None
    liger_rms_norm: Literal[True] | None = None
    liger_glu_activation: Literal[True] | None = None
    liger_fused_linear_cross_entropy: Literal[True] | None = None

    adapter: Literal["qlora"]
    lora_target_linear: Literal[True] | None = None
    lora_target_modules: tuple[Text, ...] | None = None
    lora_r: Rank
    lora_alpha: Count
    lora_dropout: Dropout
    lora_mlp_kernel: Literal[False]
    lora_qkv_kernel: Literal[False]
    lora_o_kernel: Literal[False]
    lora_embedding_kernel: Literal[False]

    datasets: tuple[_Dataset]
    test_datasets: tuple[_Dataset]
    val_set_size: Literal[0]
    dataset_prepared_path: Text
    shuffle_merged_datasets: Literal[False]
    sequence_len: CutoffLen
    eval_sequence_len: CutoffLen
    excess_length_strategy: Literal["truncate"]
    sample_packing: Literal[False]
    pad_to_sequence_len: Literal[False]
    train_on_inputs: Literal[False]

    micro_batch_size: Count
    gradient_accumulation_steps: Count
    learning_rate: Rate
    max_steps: Count
    lr_scheduler: Scheduler
    warmup_steps: Steps
    weight_decay: Share
    max_grad_norm: GradNorm
    optimizer: Optim
    seed: Seed

    eval_batch_size: Count
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
    def _agree(self) -> AxolotlConfig:
        check_agreement(self)
        if self.datasets == self.test_datasets:
            raise ValueError("datasets and test_datasets are the same: the exam would be learnt")
        if (self.lora_target_linear is None) == (not self.lora_target_modules):
            raise ValueError("one of lora_target_linear and lora_target_modules is expected")
        kernels = [getattr(self, name) for name in LIGER_KERNELS]
        if any(kernels) != all(kernels) or any(kernels) != bool(self.plugins):
            raise ValueError("the Liger plugin and its kernels go together")
        return self


def _check(config: Mapping[str, Any], modules: Collection[str]) -> list[Fault]:
    faults = schema_faults(AxolotlConfig, config)
    names = config.get("lora_target_modules")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        faults += target_faults("lora_target_modules", names, modules)
    return faults


def _parse(config: Mapping[str, Any], text: str) -> dict[str, Any]:
    return {
        "optim": config["optimizer"],
        "lora_target": config.get("lora_target_modules", ["all"]),
        "lora_rank": config["lora_r"],
        "lora_alpha": config["lora_alpha"],
        "cutoff_len": config["sequence_len"],
        "learning_rate": config["learning_rate"],
        "seed": config["seed"],
        "per_device_train_batch_size": config["micro_batch_size"],
        "gradient_accumulation_steps": config["gradient_accumulation_steps"],
        "gradient_checkpointing": config["gradient_checkpointing"],
        "enable_liger_kernel": "plugins" in config,
        "per_device_eval_batch_size": config["eval_batch_size"],
    }


AXOLOTL = Tool(
    title="Axolotl 0.19.0",
    ending=".axolotl",
    # utils/__init__.py: set_pytorch_cuda_alloc_conf
    launch=Launch(
        "axolotl train {file}", allocator="PYTORCH_ALLOC_CONF", sets_expandable_segments=True
    ),
    config=_config,
    notes=_notes,
    chat_template="the tokenizer's own chat template",
    data_files=lambda trial: message_files(trial.rows),
    eval_tokens=lambda trial: trial.eval_cutoff_len,
    check=_check,
    parse=_parse,
)
