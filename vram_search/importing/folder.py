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
from vram_search.importing.llamafactory import parse_trainer_log
from vram_search.importing.settings import (
    Settings,
    read_adapter_config,
    read_training_yaml,
    tool_of,
)
from vram_search.importing.trainer_state import add_results, parse_trainer_state
from vram_search.store import ImportedTrial, TrialResult

MARKS = ("trainer_log.jsonl", "trainer_state.json", "all_results.json", "adapter_config.json")
"""One of them makes a folder a run's; so does a folder checkpoint-N with a trainer_state.json."""
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
NO_LOGS = "no logs: neither trainer_log.jsonl, trainer_state.json nor all_results.json"
_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,10})")


def is_run(path: Path) -> bool:
    """True if the folder holds one of a run's files; a link counts and is checked when read."""
    names = {entry.name for entry in path.iterdir()}
    return not names.isdisjoint(MARKS) or _last_checkpoint(names) is not None


def load_run(path: Path) -> ImportedTrial:
    """One run's folder. `training_args.bin` is never read: loading it could run code.

    Raises:
        InputError: a file is malformed or unreadable.
    """
    folder = RunFolder(path)
    settings = Settings()
    tool = _read_yaml(folder, settings)
    adapter = folder.json("adapter_config.json")
    if adapter is not None:
        read_adapter_config(settings, adapter, str(folder.path / "adapter_config.json"))
    history, notes, has_logs = _read_logs(folder)
    tool = tool or ("llamafactory" if "trainer_log.jsonl" in folder.digests else "trainer")
    weights = {name: size for name in WEIGHTS if (size := folder.size(name)) is not None}
    reported: dict[str, Any] = {"adapter_bytes": sum(weights.values())} if weights else {}
    if not has_logs:
        notes.append(NO_LOGS)
        # Without logs the weights alone tell two runs of one configuration apart.
        for name in weights:
            folder.add_digest(name)
    # Axolotl writes the weights also when it is interrupted (`train.py`, terminate_handler).
    if not has_logs and weights and tool != "axolotl":
        history.ended = True
        notes.append("taken as complete because the adapter's weights lie in the folder")
    if history.train_loss is not None and math.isfinite(history.train_loss):
        reported["train_loss"] = history.train_loss
    return imported_trial(
        source=tool,
        path=str(folder.path),
        run=folder.path.name,
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
        "settings": settings.kept,
        "reported": reported,
        "unknown": unknown,
        "notes": notes,
    }
    return ImportedTrial(fingerprint, provenance, settings.hyperparameters, result, settings.seed)


def _result(settings: Settings, history: History) -> TrialResult:
    evaluations = history.evaluation_rows()
    finite = [row for row in evaluations if math.isfinite(row.eval_loss or 0.0)]
    best = min(finite, key=lambda row: row.eval_loss or 0.0, default=None)
    last = evaluations[-1].eval_loss if evaluations else None
    outcome = history.outcome
    error = None
    if outcome == "lost":
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


def _read_yaml(folder: RunFolder, settings: Settings) -> str | None:
    """Reads the one training YAML; returns its tool.

    LLaMA Board writes `training_args.yaml`; elsewhere a person laid the file there.
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
    return None


def _read_logs(folder: RunFolder) -> tuple[History, list[str], bool]:
    """History and notes of all logs, and whether there are any."""
    history, has_logs = History(), False
    notes: list[str] = []
    text = folder.text("trainer_log.jsonl")
    if text is not None:
        log, notes = parse_trainer_log(text, str(folder.path / "trainer_log.jsonl"))
        history.update(log)
        has_logs = bool(log.last_step)
    checkpoint = _last_checkpoint(set(folder.names("checkpoint-*")))
    for name in ("trainer_state.json", f"{checkpoint}/trainer_state.json"):
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


def _last_checkpoint(names: set[str]) -> str | None:
    """The `checkpoint-N` of the largest N."""
    matches = [match for name in names if (match := _CHECKPOINT.fullmatch(name))]
    return max(matches, key=lambda match: int(match[1]))[0] if matches else None


def _fingerprint(digests: dict[str, str]) -> str:
    lines = "".join(f"{digest} {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
