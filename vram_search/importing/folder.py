"""A folder that LLaMA-Factory, Axolotl or a plain Trainer wrote, whole or in part, as a trial."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

from vram_search.errors import InputError
from vram_search.importing.files import RunFolder
from vram_search.importing.history import History
from vram_search.importing.kind import PREFERENCE
from vram_search.importing.llamafactory import parse_trainer_log
from vram_search.importing.settings import (
    Settings,
    read_adapter_config,
    read_training_yaml,
    tool_of,
)
from vram_search.importing.trainer_state import add_results, parse_trainer_state
from vram_search.importing.yaml_beside import yaml_beside
from vram_search.store import ImportedTrial, TrialResult

MARKS = ("trainer_log.jsonl", "trainer_state.json", "all_results.json", "adapter_config.json")
"""One of them makes a folder a run's; so does a folder checkpoint-N with a trainer_state.json."""
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_FULL_WEIGHTS = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}
_REWARD_HEAD = {"value_head.safetensors", "value_head.bin"}
"""LLaMA-Factory saves it beside the adapter of a reward model (`train/callbacks.py`)."""
_PREDICTIONS = {"generated_predictions.jsonl", "predict_results.json"}
NO_LOGS = "no logs: neither trainer_log.jsonl, trainer_state.json nor all_results.json"
_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,10})")


def is_run(path: Path) -> bool:
    """True if the folder holds one of a run's files; a link counts and is checked when read."""
    names = {entry.name for entry in path.iterdir()}
    return not names.isdisjoint(MARKS) or any(map(_CHECKPOINT.fullmatch, names))


class NoTrainingError(InputError):
    """A folder that a prediction or an evaluation alone wrote."""


def load_run(path: Path) -> ImportedTrial:
    """One run's folder. `training_args.bin` is never read: loading it could run code.

    Raises:
        NoTrainingError: a prediction or an evaluation wrote the folder.
        InputError: a file is malformed or unreadable.
    """
    folder = RunFolder(path)
    settings = Settings()
    of_yaml: list[str] = []
    tool = _read_yaml(folder, settings, of_yaml)
    has_adapter = _read_adapter(folder, settings)
    history, notes, has_logs = _read_logs(folder)
    notes = [*of_yaml, *notes]
    if not has_adapter and not history.is_training and _is_prediction(folder, settings):
        raise NoTrainingError(
            f"{folder.path}: holds a prediction or an evaluation, no training",
            "name the output folder of a training",
        )
    _add_kind(folder, settings, history, has_adapter)
    tool = tool or ("llamafactory" if "trainer_log.jsonl" in folder.digests else "trainer")
    weights = {name: size for name in WEIGHTS if (size := folder.size(name)) is not None}
    reported: dict[str, Any] = {"adapter_bytes": sum(weights.values())} if weights else {}
    if not has_logs:
        notes.append(NO_LOGS)
        # Without logs the weights alone tell two runs of one configuration apart.
        for name in weights:
            folder.add_digest(name)
    # Axolotl writes the weights also when it is interrupted (`train.py`, terminate_handler).
    if weights and tool != "axolotl" and history.outcome in ("lost", "unknown"):
        history.ended = True
        notes.append("taken as complete because the adapter's weights are in the folder")
    if history.train_loss is not None and math.isfinite(history.train_loss):
        reported["train_loss"] = history.train_loss
    return imported_trial(
        source=tool,
        path=str(folder.path),
        run=_run_name(folder.path),
        settings=settings,
        history=history,
        reported=reported,
        notes=notes,
        files=sorted(folder.digests),
        fingerprint=_fingerprint(folder.digests),
    )


def imported_trial(
    *,
    source: str,
    path: str,
    run: str,
    settings: Settings,
    history: History,
    reported: dict[str, Any],
    notes: list[str],
    files: list[str],
    fingerprint: str,
) -> ImportedTrial:
    """The record for the store, and the names of all values that are unknown."""
    result = _result(settings, history)
    shape = settings.shape()
    unknown = [name for name, value in settings.hyperparameters.items() if value is None]
    unknown += ["eval_loss"] if result.eval_loss is None else []
    unknown += ["seed"] if settings.seed is None else []
    unknown += ["model"] if settings.model is None else []
    provenance = {
        "source": source,
        "path": path,
        "run": run,
        "model": {
            "name": settings.model or "unknown model",
            "parameters": shape.parameters if shape else None,
        },
        "files": files,
        "settings": _kept(settings),
        "adapter": settings.kind.adapter,
        "reported": reported,
        "unknown": unknown,
        "notes": notes,
    }
    return ImportedTrial(
        fingerprint,
        provenance,
        settings.hyperparameters,
        result,
        settings.seed,
        settings.kind.other_training,
    )


def _kept(settings: Settings) -> dict[str, Any]:
    """Kept settings, the kind of training first."""
    kind = {"stage": settings.kind.stage, "finetuning_type": settings.kind.finetuning_type}
    return {name: value for name, value in kind.items() if value} | settings.kept


def _result(settings: Settings, history: History) -> TrialResult:
    evaluations = history.evaluation_rows()
    finite = [row for row in evaluations if math.isfinite(row.eval_loss or 0.0)]
    best = min(finite, key=lambda row: row.eval_loss or 0.0, default=None)
    last = evaluations[-1].eval_loss if evaluations else None
    outcome = history.outcome
    error = None
    if outcome in ("lost", "unknown"):
        error = {"stage": "train", "step": history.last_step, "message": _how_it_ended(history)}
    return TrialResult(
        outcome,
        eval_loss=best.eval_loss if best else None,
        eval_loss_step=best.step or None if best else None,
        last_eval_loss=last,
        own_cutoff_eval_loss=last,
        measured=dict(history.measured) or None,
        seconds=None if history.train_runtime is None else {"train": history.train_runtime},
        steps_done=history.last_step,
        steps_total=history.total_steps,
        trainable_parameters=_trainable_parameters(settings),
        error=error,
        step_losses=history.step_losses(),
        evaluations=evaluations,
    )


def _how_it_ended(history: History) -> str:
    if not history.last_step:
        return "how it ended is not known"
    total = f" of {history.total_steps}" if history.total_steps else ""
    return f"the logs end at step {history.last_step}{total} and do not say why"


def _trainable_parameters(settings: Settings) -> int | None:
    shape = settings.shape()
    target, rank = settings.hyperparameters["lora_target"], settings.hyperparameters["lora_rank"]
    if shape is None or target is None or rank is None:
        return None
    try:
        return shape.lora_parameters(target, rank)
    except ValueError:  # a pattern, or modules outside the blocks
        return None


def _read_yaml(folder: RunFolder, settings: Settings, notes: list[str]) -> str | None:
    """Reads the one training YAML; returns its tool.

    LLaMA Board writes `training_args.yaml`; elsewhere a person laid the file there, or it stands
    where the training was started (`yaml_beside`).
    """
    names = [*folder.names("*.yaml"), *folder.names("*.yml")]
    if "training_args.yaml" in names:
        names = ["training_args.yaml"]
    found = {}
    for name in names:
        values = folder.yaml(name) or {}
        if tool_of(values):
            found[name] = values
        else:
            del folder.digests[name]
    if len(found) > 1:
        raise InputError(
            f"{folder.path}: {', '.join(found)} are each a training's YAML",
            "leave the one that this run was started with",
        )
    for name, values in found.items():
        read_training_yaml(settings, values, str(folder.path / name))
        return tool_of(values)
    beside = yaml_beside(folder.path)
    if beside is None:
        return None
    file, values = beside
    read_training_yaml(settings, values, str(file))
    notes.append(f"settings of {file}, whose output_dir is this folder")
    return tool_of(values)


def _read_adapter(folder: RunFolder, settings: Settings) -> bool:
    """Reads the adapter's configuration, of the folder or else of its last checkpoint that has one.

    A checkpoint's is left out of the fingerprint: it says nothing that tells two runs apart.
    """
    adapter = folder.json("adapter_config.json")
    place = "adapter_config.json"
    for checkpoint in [] if adapter else _checkpoints(folder):
        place = f"{checkpoint}/adapter_config.json"
        adapter = folder.json(place)
        if adapter is not None:
            del folder.digests[place]
            break
    if adapter is None:
        return False
    read_adapter_config(settings, adapter, str(folder.path / place))
    return True


def _is_prediction(folder: RunFolder, settings: Settings) -> bool:
    """True if LLaMA-Factory's YAML names no training, or a prediction's files are there."""
    if settings.trains is not None:
        return not settings.trains
    results = folder.json("all_results.json") or {}
    has_files = not _PREDICTIONS.isdisjoint(folder.names("*"))
    return has_files or any(key.startswith("predict_") for key in results)


def _add_kind(folder: RunFolder, settings: Settings, history: History, has_adapter: bool) -> None:
    """Adds the kind of training that files and logs show and no setting states."""
    names = folder.names("*")
    if not _REWARD_HEAD.isdisjoint(names):
        settings.kind.know_stage("rm")
    if history.has_rewards:
        settings.kind.know_stage(PREFERENCE)
    if not has_adapter and not _FULL_WEIGHTS.isdisjoint(names):
        settings.kind.know_finetuning_type("full")


def _run_name(path: Path) -> str:
    """The folder's name; of a checkpoint with its run's."""
    is_checkpoint = _CHECKPOINT.fullmatch(path.name) is not None
    return f"{path.parent.name}/{path.name}" if is_checkpoint else path.name


def _read_logs(folder: RunFolder) -> tuple[History, list[str], bool]:
    """History and notes of all logs, and whether there are any."""
    history, has_logs = History(), False
    notes: list[str] = []
    text = folder.text("trainer_log.jsonl")
    if text is not None:
        log, notes = parse_trainer_log(text, str(folder.path / "trainer_log.jsonl"))
        history.update(log)
        has_logs = bool(log.last_step)
    states = ["trainer_state.json", *(f"{one}/trainer_state.json" for one in _checkpoints(folder))]
    for name in states:
        state = folder.json(name)
        if state is not None:
            history.update(parse_trainer_state(state, str(folder.path / name)))
            has_logs = True
            break
    results = folder.json("all_results.json")
    if results is not None:
        add_results(history, results, str(folder.path / "all_results.json"))
        has_logs = True
    return history, notes, has_logs


def _checkpoints(folder: RunFolder) -> list[str]:
    """Names of the folders `checkpoint-N`, the largest N first."""
    matches = [
        match for name in folder.names("checkpoint-*") if (match := _CHECKPOINT.fullmatch(name))
    ]
    return [match[0] for match in sorted(matches, key=lambda match: -int(match[1]))]


def _fingerprint(digests: dict[str, str]) -> str:
    lines = "".join(f"{digest} {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
