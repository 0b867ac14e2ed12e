"""Writes a trial for plain peft and for Unsloth: arguments of their functions and a script that
calls them.

Unsloth's own YAML (`unsloth train --config`) has no optimizer, schedule or evaluation set
(`unsloth_cli/config.py`), so only its Python functions can represent a trial.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from vram_search.export.chat_rows import CHAT_ROWS, chat_rows_script
from vram_search.export.dataset import message_files
from vram_search.export.evaluation import checkpoint_keys, evaluation_keys
from vram_search.export.launch import Launch
from vram_search.export.script_schema import PeftConfig, UnslothConfig, check_script
from vram_search.export.tool import Groups, Tool, tokenizers_own
from vram_search.export.training_keys import training_values
from vram_search.export.trial import ExportedTrial
from vram_search.resources import shipped
from vram_search.spec.base import Spec
from vram_search.tools import ToolKeys, training_arguments

SCRIPT = "train_trial.py"
CAUSAL = "AutoModelForCausalLM"
_UNPACKED = [
    "Rows are not joined: Unsloth's attention is not known to separate joined rows. The trial's",
    "packing is not applied, so that a batch holds rows in place of full sequences.",
]


def _peft_config(trial: ExportedTrial) -> Groups:
    auto_class = _auto_class(trial)
    return {
        f"transformers.{auto_class}.from_pretrained": {
            "loader": "peft",
            **({} if auto_class == CAUSAL else {"auto_class": auto_class}),
            "model": {
                "pretrained_model_name_or_path": trial.model,
                "dtype": trial.dtype,
                "attn_implementation": "sdpa",
            },
        },
        "transformers.BitsAndBytesConfig": {
            "quantization": {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "bnb_4bit_compute_dtype": trial.dtype,
            }
        },
        "peft.LoraConfig": {
            "lora": {**_lora(trial), **trial.initial_weights("olora"), "task_type": "CAUSAL_LM"}
        },
        **_rows(trial, packs=trial.hp.packing),
        **_optimizer(trial),
        "transformers.TrainingArguments": {
            "training": {
                "gradient_checkpointing": trial.plan.gradient_checkpointing,
                "gradient_checkpointing_kwargs": {"use_reentrant": False},
                "use_liger_kernel": trial.plan.enable_liger_kernel,
                **_training(trial, "peft"),
            }
        },
    }


def _auto_class(trial: ExportedTrial) -> str:
    """Returns the class that loads the model with all its parts, as the study did."""
    return CAUSAL if trial.wrapper is None else trial.wrapper.auto_class


def _unsloth_config(trial: ExportedTrial) -> Groups:
    checkpointing = trial.plan.gradient_checkpointing
    return {
        "unsloth.FastLanguageModel.from_pretrained": {
            "loader": "unsloth",
            "model": {
                "model_name": trial.model,
                "max_seq_length": max(trial.hp.cutoff_len, trial.eval_cutoff_len),
                "dtype": trial.dtype,
                "load_in_4bit": True,
                "use_exact_model_name": True,
                "use_gradient_checkpointing": checkpointing,
                "random_state": trial.seed,
            },
        },
        "unsloth.FastLanguageModel.get_peft_model": {
            "lora": {
                **_lora(trial),
                "use_gradient_checkpointing": checkpointing,
                "random_state": trial.seed,
            }
        },
        **_rows(trial),
        **_optimizer(trial),
        "transformers.TrainingArguments": {"training": _training(trial, "unsloth")},
    }


def _lora(trial: ExportedTrial) -> dict[str, Any]:
    targets = trial.target_modules
    return {
        **training_arguments.PEFT.written(trial.adapter_settings),
        "target_modules": "all-linear" if targets == ("all",) else list(targets),
        "bias": "none",
    }


def _rows(trial: ExportedTrial, *, packs: bool = False) -> Groups:
    date = trial.study.spec["dataset"].get("date")  # older records have none
    return {
        "rows, by the tokenizer's chat template": {
            "rows": {
                "train": "train.json",
                "eval": "eval.json",
                "tokenizer": trial.tokenizer or trial.model,
                **({"date": date} if date else {}),
                "cutoff_len": trial.hp.cutoff_len,
                "eval_cutoff_len": trial.eval_cutoff_len,
                **({"packing": True} if packs else {}),
            }
        }
    }


def _optimizer(trial: ExportedTrial) -> Groups:
    plus = {"peft.optimizers.create_loraplus_optimizer": {"optimizer": trial.loraplus}}
    return plus if trial.loraplus else {}


def _training(trial: ExportedTrial, loader: str) -> dict[str, Any]:
    return {
        **training_values(trial),
        "per_device_eval_batch_size": trial.plan.per_device_eval_batch_size,
        **evaluation_keys(trial),
        "output_dir": f"saves/{trial.name}.{loader}",
        **checkpoint_keys(trial),
        "logging_steps": 1,
        "report_to": "none",
    }


def _peft_notes(trial: ExportedTrial) -> list[str]:
    notes = ["The script encodes, cuts and trains as the trial did, and ends with its eval_loss."]
    if trial.plan.enable_liger_kernel:
        notes.append("use_liger_kernel needs: pip install liger-kernel")
    return notes + trial.initial_weights_note("peft", "olora")


def _unsloth_notes(trial: ExportedTrial) -> list[str]:
    parts = [
        "FastLanguageModel trains no vision layers; target_modules names the text part's alone."
    ]
    return [
        *(parts if trial.wrapper is not None else []),
        "Rows are encoded and cut as in the trial. Unsloth quantises to NF4 with double",
        "quantisation, and replaces attention, MLP, norms and loss by kernels of its own, so that",
        "the bytes above do not hold. A part of the plan has no key, as its loss is always fused:",
        f"enable_liger_kernel: {str(trial.plan.enable_liger_kernel).lower()}",
        *trial.initial_weights_note("Unsloth"),
        *(_UNPACKED if trial.hp.packing else []),
    ]


def _parse(config: Mapping[str, Any], text: str) -> dict[str, Any]:
    lora, training = config["lora"], config["training"]
    targets = lora["target_modules"]
    fields = {
        **training_arguments.PEFT.read(lora),
        **config.get("optimizer", {}),
        **training,
        "lora_target": ["all"] if targets == "all-linear" else targets,
        "cutoff_len": config["rows"]["cutoff_len"],
        "packing": config["rows"].get("packing", False),
    }
    if config["loader"] == "peft":
        return {**fields, "enable_liger_kernel": training["use_liger_kernel"]}
    return {
        **fields,
        "gradient_checkpointing": lora["use_gradient_checkpointing"],
        "enable_liger_kernel": bool(re.search(r"^# enable_liger_kernel: true$", text, re.M)),
    }


def _data_files(trial: ExportedTrial) -> dict[str, str]:
    script = shipped("configs", "export", SCRIPT).read_text(encoding="utf-8")
    return {SCRIPT: script, CHAT_ROWS: chat_rows_script(), **message_files(trial.rows)}


def _tool(
    keys: ToolKeys,
    ending: str,
    config: Callable[[ExportedTrial], Groups],
    notes: Callable[[ExportedTrial], list[str]],
    schema: type[Spec],
    eval_tokens: Callable[[ExportedTrial], int | None],
) -> Tool:
    return Tool(
        keys=keys,
        ending=ending,
        launch=Launch(f"python {SCRIPT} {{file}}"),
        config=config,
        notes=notes,
        chat_template=tokenizers_own,
        data_files=_data_files,
        eval_tokens=eval_tokens,
        check=partial(check_script, schema),
        parse=_parse,
    )


PEFT = _tool(
    training_arguments.PEFT,
    ".peft",
    _peft_config,
    _peft_notes,
    PeftConfig,
    eval_tokens=lambda trial: trial.eval_cutoff_len,
)
UNSLOTH = _tool(
    training_arguments.UNSLOTH,
    ".unsloth",
    _unsloth_config,
    _unsloth_notes,
    UnslothConfig,
    eval_tokens=lambda trial: None,  # its loss is always fused
)
