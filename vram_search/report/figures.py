"""Figures of a trial and its study: bytes with their origin, and seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from vram_search.report.trial_fields import StudyFields, TrialFields
from vram_search.store import TrialRecord

Origin = Literal["measured", "predicted"]


def required_bytes(trial: TrialFields) -> tuple[int | None, Origin]:
    """Smallest limit under which the trial runs, and "measured" or "predicted"."""
    if trial.measured_required_bytes is not None:
        return trial.measured_required_bytes, "measured"
    return trial.predicted_required_bytes, "predicted"


def both_required(first: TrialFields, second: TrialFields) -> tuple[int | None, int | None, Origin]:
    """Required bytes of two trials: measured for both, or predicted for both."""
    measured = (first.measured_required_bytes, second.measured_required_bytes)
    if None not in measured:
        return *measured, "measured"
    return first.predicted_required_bytes, second.predicted_required_bytes, "predicted"


def needed_bytes(trial: TrialFields) -> float | None:
    """Required bytes; predicted ones with the margin that they were planned with."""
    size, origin = required_bytes(trial)
    if size is None or origin == "measured":
        return size
    return size * (1 + ((trial.predicted or {}).get("margin") or 0.0))


def peak(trial: TrialFields) -> tuple[int | None, Origin]:
    """The trial's peak: (reserved bytes, "measured") or (required bytes, "predicted")."""
    measured = (trial.measured or {}).get("reserved_bytes")
    if measured is not None:
        return measured, "measured"
    return (trial.predicted or {}).get("required_bytes"), "predicted"


def measured_on(trial: TrialFields) -> str:
    """The device, or the card that it emulated: "emulated 16 GB on NVIDIA H200"."""
    return str((trial.measured or {}).get("emulated") or trial.device or "an unknown card")


def card_title(study: StudyFields) -> str:
    return str(study.card.get("title") or study.card.get("name"))


def run_seconds(trial: TrialFields) -> float | None:
    """Seconds from the trial's start to its record; for an imported run, what its tool reports."""
    if trial.provenance is not None:
        return (trial.seconds or {}).get("train")
    if trial.finished_at is None:
        return None
    return (trial.finished_at - trial.started_at).total_seconds()


def comparable(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Complete trials with a finite objective; no other kind of training among them."""
    return [
        trial
        for trial in trials
        if trial.outcome == "complete" and trial.value is not None and trial.other_training is None
    ]


def by_value(trial: TrialRecord) -> tuple[bool, float, int]:
    """Sort key: the lowest objective first, then the lower number; unknown values last."""
    return trial.value is None, trial.value or 0.0, trial.number


def ranked(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Comparable trials, the lowest objective first."""
    return sorted(comparable(trials), key=by_value)
