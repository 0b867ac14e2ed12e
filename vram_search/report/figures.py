"""Figures of a trial and its study: bytes with their origin, seconds, and the JSON of a record."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from vram_search.store import StudyRecord, TrialRecord


def required_bytes(trial: TrialRecord) -> tuple[int | None, str]:
    """Smallest limit under which the trial runs, and "measured" or "predicted"."""
    if trial.measured_required_bytes is not None:
        return trial.measured_required_bytes, "measured"
    return trial.predicted_required_bytes, "predicted"


def needed_bytes(trial: TrialRecord) -> float | None:
    """Required bytes; predicted ones with the margin that they were planned with."""
    size, origin = required_bytes(trial)
    if size is None or origin == "measured":
        return size
    return size * (1 + ((trial.predicted or {}).get("margin") or 0.0))


def peak(trial: TrialRecord) -> tuple[int | None, str]:
    """The trial's peak: (reserved bytes, "measured") or (required bytes, "predicted")."""
    measured = (trial.measured or {}).get("reserved_bytes")
    if measured is not None:
        return measured, "measured"
    return (trial.predicted or {}).get("required_bytes"), "predicted"


def measured_on(trial: TrialRecord) -> str:
    """The device, or the card that it emulated: "emulated 16 GB on NVIDIA H200"."""
    return str((trial.measured or {}).get("emulated") or trial.device or "an unknown card")


def card_title(study: StudyRecord) -> str:
    return str(study.card.get("title") or study.card.get("name"))


def run_seconds(trial: TrialRecord) -> float | None:
    """Seconds from the trial's start to its record; for an imported run, what its tool reports."""
    if trial.provenance is not None:
        return (trial.seconds or {}).get("train")
    if trial.finished_at is None:
        return None
    return (trial.finished_at - trial.started_at).total_seconds()


def comparable(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Complete trials with a finite eval_loss."""
    return [t for t in trials if t.outcome == "complete" and t.eval_loss is not None]


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
