"""Writes a trial for LLaMA-Factory: its keys, its rows and their description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vram_search.export.dataset import EVAL, TRAIN, check_turns, dataset_info, text_files
from vram_search.export.evaluation import checkpoint_keys, evaluation_keys
from vram_search.export.launch import Launch
from vram_search.export.llamafactory_schema import check_llamafactory
from vram_search.export.template import WRAPPER_TEMPLATES, Template, template_by_name
from vram_search.export.template_choice import choose_template, model_type_of
from vram_search.export.tool import Groups, Tool
from vram_search.export.training_keys import training_values
from vram_search.export.trial import ExportedTrial
from vram_search.tools import llamafactory as keys

FROZEN_PARTS = ("freeze_vision_tower", "freeze_multi_modal_projector")
"""Keys that keep vision and audio towers and projectors as they are. `true` is their default; they
are written so that the file says what is trained."""


def _config(trial: ExportedTrial) -> Groups:
    """Returns keys and values by section, with the sections of LLaMA-Factory's own examples."""
    hp, plan, template = trial.hp, trial.plan, _template(trial)
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
            **({} if trial.wrapper is None else dict.fromkeys(FROZEN_PARTS, True)),
            **keys.LLAMA_FACTORY.written(trial.adapter_settings),
            **trial.loraplus,
        },
        "dataset": {
            "dataset_dir": ".",
            "dataset": TRAIN,
            "eval_dataset": EVAL,
            "template": template.name,
            **system,
            "cutoff_len": hp.cutoff_len,
            "packing": hp.packing,
            **({"neat_packing": True} if hp.packing else {}),
            "train_on_prompt": False,
            "overwrite_cache": True,
        },
        "train": training_values(trial),
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
    return {"dataset_info.json": dataset_info(trial.rows), **text_files(trial.rows)}


def _notes(trial: ExportedTrial) -> list[str]:
    notes = [
        "With several GPUs, set CUDA_VISIBLE_DEVICES=0: llamafactory-cli otherwise trains on all",
        "of them, which multiplies the batch.",
        "overwrite_output_dir starts afresh: LLaMA-Factory otherwise silently resumes the last",
        "checkpoint in output_dir. Set it to false to go on with a run that was interrupted.",
    ]
    if trial.plan.enable_liger_kernel:
        notes.append("enable_liger_kernel needs: pip install liger-kernel")
    if trial.hp.packing:
        notes += [
            "neat_packing: joined rows do not see each other, as in the trial. LLaMA-Factory fills",
            "each sequence to cutoff_len + 1 tokens, and joins the evaluation rows too: its",
            "eval_loss is a mean over sequences.",
        ]
    notes += trial.initial_weights_note("LLaMA-Factory")
    if trial.wrapper is not None and trial.wrapper.model_type not in WRAPPER_TEMPLATES:
        notes.append(f"LLaMA-Factory knows no parts of {trial.wrapper.model_type}: the names in")
        notes.append("lora_target are those of the text part alone.")
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


def _template(trial: ExportedTrial) -> Template:
    """Returns the chosen template, or else the one for the model's name."""
    return trial.template or template_by_name(
        trial.model,
        model_type_of(trial),
        trial.prompt_date,
    )


def _template_words(trial: ExportedTrial) -> str:
    template = _template(trial)
    return f"{template.name}: {template.note or 'not compared'}"


LLAMA_FACTORY = Tool(
    keys=keys.LLAMA_FACTORY,
    ending="",
    launch=Launch("llamafactory-cli train {file}"),
    config=_config,
    notes=_notes,
    chat_template=_template_words,
    choose_template=choose_template,
    data_files=_data_files,
    eval_tokens=lambda trial: trial.hp.cutoff_len,
    packs_evaluation=True,
    check=check_llamafactory,
    parse=_parse,
)
