"""A trial as files for LLaMA-Factory 0.9.5: the training YAML, its rows and their description."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Sequence
from typing import Any

import yaml

from vram_search.data import Rows
from vram_search.errors import FaultyFileError, InputError
from vram_search.export.dataset import EVAL, TRAIN, dataset_info, dataset_rows
from vram_search.export.provenance import provenance
from vram_search.export.schema import LORA_MODULES, check_llamafactory
from vram_search.export.template import Template, template_by_name
from vram_search.spec.card import Card
from vram_search.spec.hyperparameters import LORA_TARGET_SETS, Hyperparameters
from vram_search.spec.plan import MemoryPlan
from vram_search.spec.study import TrainingSpec
from vram_search.store import StudyRecord, TrialRecord

MOST_EVALUATIONS = 20
"""How often LLaMA-Factory evaluates at most; each takes time that the trial did not need."""

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"


def llamafactory_files(
    study: StudyRecord,
    trial: TrialRecord,
    rows: Rows,
    *,
    template: Template | None = None,
    model_name_or_path: str | None = None,
    modules: Collection[str] = LORA_MODULES,
) -> dict[str, str]:
    """File name -> text: `<study>-trial-<N>.yaml`, `dataset_info.json`, `train.json`, `eval.json`.

    They belong in one folder, in which `llamafactory-cli train` is run.

    Args:
        template: LLaMA-Factory's template; default: by the model's name.
        model_name_or_path: instead of the study's, for example the folder made from a GGUF file.
        modules: names of the model's linear layers.

    Raises:
        InputError: the trial has no plan, the model is none that LLaMA-Factory reads, the rows are
            not the trial's or would be dropped, or no template is known.
        FaultyFileError: the configuration would not run.
    """
    if trial.plan is None:
        raise InputError(
            f"trial {trial.number} of {study.name} has no memory plan: nothing was found that fits",
            "export a trial that ran; `best` names one",
        )
    if rows.data_hash != trial.data_hash:
        raise InputError(
            f"the rows have changed since trial {trial.number} (data hash {rows.data_hash}, "
            f"the trial's is {trial.data_hash})",
            "bring back the data set as it was",
        )
    model = _model(study, model_name_or_path)
    if template is None:
        template = template_by_name(
            model, study.model.get("model_type"), trial.finished_at or trial.started_at
        )
    name = export_name(study, trial)
    groups = _config(study, trial, rows, model, template)
    config = {key: value for group in groups.values() for key, value in group.items()}
    if faults := check_llamafactory(config, modules=modules):
        raise FaultyFileError(f"{name}.yaml", faults)
    return {
        f"{name}.yaml": _yaml_text(study, trial, template, groups),
        "dataset_info.json": dataset_info(),
        "train.json": dataset_rows(rows.train, "training"),
        "eval.json": dataset_rows(rows.eval, "evaluation"),
    }


def export_name(study: StudyRecord, trial: TrialRecord) -> str:
    """`<study>-trial-<N>`: the YAML's name without its ending, and the output folder's.

    Raises:
        InputError: the recorded study has a name that a study file cannot give it.
    """
    if not _STUDY_NAME.fullmatch(study.name):
        raise InputError(
            f"the study name {study.name!r} cannot name a file",
            "letters, digits, '.', '_' and '-', at most 64, beginning with a letter or a digit",
        )
    return f"{study.name}-trial-{trial.number}"


def _model(study: StudyRecord, instead: str | None) -> str:
    spec = study.spec["model"]
    name: str | None = instead or spec["model_name_or_path"]
    if spec["weights"] == "random" or name is None:
        raise InputError(
            f"study {study.name} has random weights: there is no model to train",
            "name one under model.model_name_or_path and run the study",
        )
    if name.endswith(".gguf"):
        raise InputError(
            f"{name}: LLaMA-Factory reads no GGUF files",
            "name the folder that was made from it as the model",
        )
    return name


def _config(
    study: StudyRecord, trial: TrialRecord, rows: Rows, model: str, template: Template
) -> dict[str, dict[str, Any]]:
    """Keys and values by section, the sections of LLaMA-Factory's own examples."""
    hp = Hyperparameters.model_validate(trial.hyperparameters)
    plan = MemoryPlan.model_validate(trial.plan)
    training = TrainingSpec.model_validate(study.spec["training"])
    has_bf16 = Card.model_validate(study.spec["card"]).has_bf16
    steps = trial.steps_total or _count_steps(training, plan, len(rows.train))
    every = eval_interval(trial.eval_loss_step or steps, training.rungs[:1], steps)
    system = {} if template.default_system is None else {"default_system": template.default_system}
    return {
        "model": {
            "model_name_or_path": model,
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
            "lora_target": ",".join(LORA_TARGET_SETS.get(hp.lora_target, (hp.lora_target,))),
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
            "max_steps": steps,
            "lr_scheduler_type": training.lr_scheduler_type,
            "warmup_steps": math.ceil(training.warmup_ratio * steps),
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_grad_norm,
            "optim": hp.optim,
            "bf16" if has_bf16 else "fp16": True,
            "seed": trial.seed,
            "data_seed": trial.seed,
        },
        "eval": {
            "per_device_eval_batch_size": plan.per_device_eval_batch_size,
            "eval_strategy": "steps",
            "eval_steps": every,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
        },
        "output": {
            "output_dir": f"saves/{export_name(study, trial)}",
            "overwrite_output_dir": True,
            "save_strategy": "steps",
            "save_steps": every,
            "save_total_limit": 2,
            "logging_steps": 1,
            "report_to": "none",
        },
    }


def _count_steps(training: TrainingSpec, plan: MemoryPlan, rows: int) -> int:
    """Optimizer steps of a trial that never counted them, as transformers' Trainer counts them."""
    if training.max_steps is not None:
        return training.max_steps
    micro_batches = math.ceil(rows / plan.per_device_train_batch_size)
    return math.ceil(training.epochs * math.ceil(micro_batches / plan.gradient_accumulation_steps))


def eval_interval(best_step: int, first_rung: Sequence[float], steps_total: int) -> int:
    """Steps between evaluations, so that one of them is the trial's best checkpoint.

    LLaMA-Factory evaluates at multiples only. Of the divisors of `best_step` that make no more than
    MOST_EVALUATIONS evaluations, the one nearest to the study's first rung.
    """
    wanted = round((first_rung[0] if first_rung else 1.0) * steps_total)
    divisors = [step for step in range(1, best_step + 1) if best_step % step == 0]
    few = [step for step in divisors if steps_total // step <= MOST_EVALUATIONS]
    return min(few or [best_step], key=lambda step: abs(step - wanted))


def _yaml_text(
    study: StudyRecord,
    trial: TrialRecord,
    template: Template,
    groups: dict[str, dict[str, Any]],
) -> str:
    name = export_name(study, trial)
    cutoff = study.spec["training"]["eval_cutoff_len"] or max(
        study.spec["search_space"]["cutoff_len"]
    )
    lines = [f"# {line}".rstrip() for line in _launch(name, trial)]
    lines += ["#", *(f"# {line}" for line in provenance(study, trial, template, cutoff)), "#"]
    lines += [f"# {line}" for line in _notes(study, groups)]
    for title, group in groups.items():
        lines += ["", f"### {title}"]
        for key, value in group.items():
            dumped = yaml.safe_dump({key: value}, allow_unicode=True, width=math.inf)
            lines.append(dumped.rstrip("\n"))
    return "\n".join(lines) + "\n"


def _launch(name: str, trial: TrialRecord) -> list[str]:
    command = f"llamafactory-cli train {name}.yaml"
    is_expandable = bool(trial.plan and trial.plan.get("expandable_segments"))
    bash = f"{_EXPANDABLE} {command}" if is_expandable else command
    return [
        bash,
        "",
        "LLaMA-Factory 0.9.5, started in the folder of this file:",
        f"  bash        {bash}",
        f"  PowerShell  llamafactory-cli train .\\{name}.yaml",
        *(["  (PyTorch on Windows has no expandable segments)"] if is_expandable else []),
    ]


def _notes(study: StudyRecord, groups: dict[str, dict[str, Any]]) -> list[str]:
    notes = [
        "With several GPUs, set CUDA_VISIBLE_DEVICES=0: llamafactory-cli otherwise trains on all",
        "of them, which multiplies the batch.",
        "overwrite_output_dir starts afresh: LLaMA-Factory otherwise silently resumes the last",
        "checkpoint in output_dir. Set it to false to go on with a run that was interrupted.",
    ]
    if groups["model"]["enable_liger_kernel"]:
        notes.append("enable_liger_kernel needs: pip install liger-kernel")
    tokenizer = study.spec["model"]["tokenizer"]
    if tokenizer:
        notes.append(f"The study read its tokenizer from {json.dumps(tokenizer)};")
        notes.append("LLaMA-Factory reads the model's own.")
    return notes


def parse_llamafactory(text: str) -> dict[str, dict[str, Any]]:
    """The hyperparameters and the plan of an exported YAML: {"hyperparameters": ..., "plan": ...}.

    A list of LoRA modules that has a set's name comes back as that name.

    Raises:
        InputError: not YAML.
        FaultyFileError: a key or value is none that an export writes.
    """
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {error}") from None
    if not isinstance(config, dict):
        raise InputError("not a LLaMA-Factory configuration: a mapping of keys is expected")
    if faults := check_llamafactory(config):
        raise FaultyFileError("the LLaMA-Factory configuration", faults)
    plan = MemoryPlan(
        per_device_train_batch_size=config["per_device_train_batch_size"],
        gradient_accumulation_steps=config["gradient_accumulation_steps"],
        gradient_checkpointing=not config["disable_gradient_checkpointing"],
        enable_liger_kernel=config["enable_liger_kernel"],
        per_device_eval_batch_size=config["per_device_eval_batch_size"],
        expandable_segments=text.startswith(f"# {_EXPANDABLE} "),
    )
    modules = tuple(config["lora_target"].split(","))
    names = {members: name for name, members in LORA_TARGET_SETS.items()}
    hp = Hyperparameters(
        optim=config["optim"],
        lora_target=names.get(modules, ",".join(modules)),
        lora_rank=config["lora_rank"],
        lora_alpha=config["lora_alpha"],
        cutoff_len=config["cutoff_len"],
        batch_size=plan.batch_size,
        learning_rate=config["learning_rate"],
    )
    return {"hyperparameters": hp.model_dump(mode="json"), "plan": plan.model_dump(mode="json")}
