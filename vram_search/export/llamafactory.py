"""A trial for LLaMA-Factory 0.9.5: its keys, its rows and their description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from vram_search.data import Rows
from vram_search.export.dataset import EVAL, TRAIN, check_turns, dataset_info, message_files
from vram_search.export.evaluation import checkpoint_keys, evaluation_keys
from vram_search.export.launch import Launch
from vram_search.export.llamafactory_schema import check_llamafactory
from vram_search.export.template import Template, template_by_name
from vram_search.export.tool import Groups, Tool, export_files, parse_export
from vram_search.export.trial import ExportedTrial, exported_trial
from vram_search.spec.shape import ModelShape
from vram_search.store import StudyRecord, TrialRecord


def llamafactory(template: Template) -> Tool:
    """LLaMA-Factory, which renders rows by a template of its own."""
    return Tool(
        title="LLaMA-Factory 0.9.5",
        ending="",
        launch=Launch("llamafactory-cli train {file}"),
        config=partial(_config, template),
        notes=_notes,
        chat_template=f"{template.name}: {template.note or 'not compared'}",
        data_files=_data_files,
        eval_tokens=lambda trial: trial.hp.cutoff_len,
        check=lambda config, modules: check_llamafactory(config, modules=modules),
        parse=_parse,
    )


def llamafactory_files(
    study: StudyRecord,
    trial: TrialRecord,
    rows: Rows,
    *,
    template: Template | None = None,
    model_name_or_path: str | None = None,
    shape: ModelShape | None = None,
) -> dict[str, str]:
    """File name -> text: `<study>-trial-<N>.yaml`, `dataset_info.json`, `train.json`, `eval.json`
    and the scripts that start `llamafactory-cli train`.

    Args:
        template: LLaMA-Factory's template; default: by the model's name.
        model_name_or_path: instead of the study's, for example the folder made from a GGUF file.
        shape: the model's; what is not known is not checked.

    Raises:
        InputError: as `exported_trial`, or no template is known.
        FaultyFileError: the configuration would not run, or rows would be dropped.
    """
    exported = exported_trial(
        study, trial, rows, model_name_or_path=model_name_or_path, shape=shape
    )
    if template is None:
        template = template_by_name(
            exported.model, study.model.get("model_type"), trial.finished_at or trial.started_at
        )
    return export_files(llamafactory(template), exported)


def parse_llamafactory(text: str) -> dict[str, Any]:
    """As `parse_export`."""
    return parse_export(llamafactory(Template("")), text)


def _config(template: Template, trial: ExportedTrial) -> Groups:
    """Keys and values by section, the sections of LLaMA-Factory's own examples."""
    hp, plan, training = trial.hp, trial.plan, trial.training
    system = {} if template.default_system is None else {"default_system": template.default_system}
    return {
        "model": {
            "model_name_or_path": trial.model,
            "quantization_method": "bnb",
            "quantization_bit": 4,
            "quantization_type": "nf4",
            "double_quantization": True,
            "flash_attn": "sdpa",
            "enable_liger_kernel": plan.enable_liger_kernel,
            "disable_gradient_checkpointing": not plan.gradient_checkpointing,
            "use_reentrant_gc": False,
        },
        "method": {
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_target": ",".join(trial.target_modules),
            "lora_rank": hp.lora_rank,
            "lora_alpha": hp.lora_alpha,
            "lora_dropout": 0.0,
        },
        "dataset": {
            "dataset_dir": ".",
            "dataset": TRAIN,
            "eval_dataset": EVAL,
            "template": template.name,
            **system,
            "cutoff_len": hp.cutoff_len,
            "packing": False,
            "train_on_prompt": False,
            "overwrite_cache": True,
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
            "output_dir": f"saves/{trial.name}",
            "overwrite_output_dir": True,
            **checkpoint_keys(trial),
            "logging_steps": 1,
            "report_to": "none",
        },
    }


def _data_files(trial: ExportedTrial) -> dict[str, str]:
    check_turns(trial.rows.train, "training")
    check_turns(trial.rows.eval, "evaluation")
    return {"dataset_info.json": dataset_info(), **message_files(trial.rows)}


def _notes(trial: ExportedTrial) -> list[str]:
    notes = [
        "With several GPUs, set CUDA_VISIBLE_DEVICES=0: llamafactory-cli otherwise trains on all",
        "of them, which multiplies the batch.",
        "overwrite_output_dir starts afresh: LLaMA-Factory otherwise silently resumes the last",
        "checkpoint in output_dir. Set it to false to go on with a run that was interrupted.",
    ]
    if trial.plan.enable_liger_kernel:
        notes.append("enable_liger_kernel needs: pip install liger-kernel")
    if trial.tokenizer:
        notes.append(f"The study read its tokenizer from {json.dumps(trial.tokenizer)};")
        notes.append("LLaMA-Factory reads the model's own.")
    return notes


def _parse(config: Mapping[str, Any], text: str) -> dict[str, Any]:
    return {
        **config,
        "lora_target": config["lora_target"].split(","),
        "gradient_checkpointing": not config["disable_gradient_checkpointing"],
    }
