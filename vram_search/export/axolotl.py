"""Writes a trial for Axolotl (its `utils/schemas/*.py`): keys and notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vram_search.export.axolotl_schema import check_axolotl
from vram_search.export.dataset import message_files
from vram_search.export.evaluation import checkpoint_keys, evaluation_keys
from vram_search.export.launch import Launch
from vram_search.export.tool import Groups, Tool, tokenizers_own
from vram_search.export.training_keys import training_values
from vram_search.export.trial import ExportedTrial
from vram_search.tools import axolotl as keys
from vram_search.tools.axolotl import LIGER_KERNELS, LIGER_PLUGIN, LORA_KERNELS


def _config(trial: ExportedTrial) -> Groups:
    hp, plan = trial.hp, trial.plan
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
            **keys.AXOLOTL.written(trial.adapter_settings),
            **keys.AXOLOTL.written(trial.initial_weights("olora")),
            **trial.loraplus,
            **dict.fromkeys(LORA_KERNELS, False),
            **({} if trial.wrapper is None else {"freeze_mm_modules": True}),
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
            "sample_packing": hp.packing,
            **({"eval_sample_packing": False} if hp.packing else {}),
            "pad_to_sequence_len": hp.packing,
            "train_on_inputs": False,
        },
        "train": _training(trial),
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


def _training(trial: ExportedTrial) -> dict[str, Any]:
    values = training_values(trial)
    del values["bf16"], values["fp16"], values["data_seed"]  # the first two stand with the model
    return keys.AXOLOTL.written(values)


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
    if trial.hp.packing:
        notes += [
            "Axolotl joins rows by another rule (first fit), so that its sequences differ from the",
            "trial's; their attention is separated as in the trial.",
        ]
    notes += trial.initial_weights_note("Axolotl", "olora")
    if trial.warmup_steps == 1:
        notes.append("Axolotl makes 2 warm-up steps of 1.")
    if trial.plan.enable_liger_kernel:
        notes.append("The Liger plugin needs: pip install liger-kernel")
    return notes


def _parse(config: Mapping[str, Any], text: str) -> dict[str, Any]:
    return {
        "lora_target": ["all"],  # lora_target_linear, where no list stands
        **keys.AXOLOTL.read(config),
        "enable_liger_kernel": "plugins" in config,
    }


AXOLOTL = Tool(
    keys=keys.AXOLOTL,
    ending=".axolotl",
    # utils/__init__.py: set_pytorch_cuda_alloc_conf
    launch=Launch(
        "axolotl train {file}", allocator="PYTORCH_ALLOC_CONF", sets_expandable_segments=True
    ),
    config=_config,
    notes=_notes,
    chat_template=tokenizers_own,
    data_files=lambda trial: message_files(trial.rows),
    eval_tokens=lambda trial: trial.eval_cutoff_len,
    check=check_axolotl,
    parse=_parse,
)
