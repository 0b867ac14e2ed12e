"""Words and figures of a trial, the same in every table and answer. Imports nothing heavy."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from vram_search.store import StudyRecord, TrialRecord
from vram_search.units import format_bytes


def trial_json(trial: TrialRecord) -> dict[str, Any]:
    """A trial for --json: its record's fields, times in ISO 8601, without database ids."""
    fields = dict(vars(trial))
    for name in ("id", "study_id", "predicted_required_bytes", "measured_required_bytes"):
        del fields[name]
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in fields.items()
    }


def study_json(study: StudyRecord) -> dict[str, Any]:
    """A study for --json."""
    return {
        "study": study.name,
        "revision": study.revision,
        "created_at": study.created_at.isoformat(),
        "updated_at": study.updated_at.isoformat(),
        "model": study.model,
        "card": study.card,
        "data_hash": study.data_hash,
    }


def peak(trial: TrialRecord) -> tuple[int | None, str]:
    """The trial's peak: (reserved bytes, "measured") or (required bytes, "predicted")."""
    measured = (trial.measured or {}).get("reserved_bytes")
    if measured is not None:
        return measured, "measured"
    return (trial.predicted or {}).get("required_bytes"), "predicted"


def peak_words(trial: TrialRecord, study: StudyRecord) -> str:
    """The peak with its origin: "3.42 GiB predicted for NVIDIA GeForce RTX 5060 Ti 16 GB"."""
    size, origin = peak(trial)
    if size is None:
        return "unknown"
    if origin == "measured":
        return f"{format_bytes(size)} reserved, measured on {trial.device}"
    return f"{format_bytes(size)} required, predicted for {card_title(study)}"


def bytes_caption(trials: list[TrialRecord], study: StudyRecord) -> str:
    """Says of a table's VRAM column where its figures come from."""
    origins = {peak(trial)[1] for trial in trials if peak(trial)[0] is not None}
    card = card_title(study)
    if origins == {"measured"}:
        return f"VRAM: peak reserved bytes, measured; the study's card: {card}"
    if origins == {"predicted"}:
        return f"VRAM: required bytes, predicted for {card}"
    return f"VRAM: peak reserved bytes, measured; with ~ required bytes, predicted for {card}"


def peak_cell(trial: TrialRecord) -> str:
    """For a narrow column; ~ marks a prediction."""
    size, origin = peak(trial)
    if size is None:
        return "-"
    return f"~{format_bytes(size)}" if origin == "predicted" else format_bytes(size)


def card_title(study: StudyRecord) -> str:
    return str(study.card.get("title") or study.card.get("name"))


def loss_cell(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"


def run_seconds(trial: TrialRecord) -> float | None:
    """Seconds from the trial's start to its record."""
    if trial.finished_at is None:
        return None
    return (trial.finished_at - trial.started_at).total_seconds()


def hyperparameter_words(hp: dict[str, Any]) -> str:
    """One line: "all r16 a32, cutoff 512, batch 8, lr 2.0e-04, adamw_8bit"."""
    return (
        f"{hp['lora_target']} r{hp['lora_rank']} a{hp['lora_alpha']}, cutoff {hp['cutoff_len']}, "
        f"batch {hp['batch_size']}, lr {hp['learning_rate']:.1e}, {hp['optim']}"
    )


def plan_words(plan: dict[str, Any] | None) -> str:
    """One line: "micro-batch 4 x 2, gradient checkpointing, eval batch 4"."""
    if plan is None:
        return "none"
    words = [
        f"micro-batch {plan['per_device_train_batch_size']} x {plan['gradient_accumulation_steps']}"
    ]
    checkpointing = "" if plan["gradient_checkpointing"] else "no "
    words.append(f"{checkpointing}gradient checkpointing")
    if plan["enable_liger_kernel"]:
        words.append("fused cross entropy")
    words.append(f"eval batch {plan['per_device_eval_batch_size']}")
    if plan["expandable_segments"]:
        words.append("expandable segments")
    return ", ".join(words)


def error_words(trial: TrialRecord) -> str:
    """What went wrong, in one line; empty where nothing did."""
    if not trial.error:
        return ""
    where = f"in {trial.error['stage']}: " if trial.error.get("stage") else ""
    return f"{where}{trial.error.get('message', '')}"
