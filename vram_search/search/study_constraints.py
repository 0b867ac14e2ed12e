"""A study's own constraints: by which share a recorded trial breaks each, and which trials keep
all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vram_search.store import Store, StudyRecord, TrialRecord

if TYPE_CHECKING:  # few studies have constraints, and their module imports pydantic
    from vram_search.spec.constraints import Constraints


def record_excess(constraints: Constraints, record: TrialRecord) -> dict[str, float]:
    """Returns the share by which a trial breaks each constraint; <= 0 where it keeps it.

    Measured figures of a complete trial count, otherwise the predicted ones.
    """
    from vram_search.spec.constraints import saved_adapter_bytes

    predicted = record.predicted or {}
    seconds = predicted.get("train_seconds")
    if record.outcome == "complete" and record.seconds and "train" in record.seconds:
        seconds = record.seconds["train"]
    parameters = record.trainable_parameters or predicted.get("trainable_parameters")
    figures: Mapping[str, float | None] = {
        "max_train_seconds": seconds,
        "max_adapter_mib": parameters and saved_adapter_bytes(parameters, record.hyperparameters),
        "max_required_gib": record.measured_required_bytes or record.predicted_required_bytes,
    }
    return constraints.excess(figures)


def keeps_all(constraints: Constraints, record: TrialRecord) -> bool:
    """True if a trial breaks none of the constraints whose figures are known."""
    return all(share <= 0 for share in record_excess(constraints, record).values())


def keeping_constraints(study: StudyRecord, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Returns the trials that keep the study's own constraints."""
    own = set_limits(study)
    if not own:
        return list(trials)
    from vram_search.spec.constraints import Constraints

    constraints = Constraints.model_validate(own)
    return [trial for trial in trials if keeps_all(constraints, trial)]


def best_trials(store: Store, study: StudyRecord, limit: int | None = None) -> list[TrialRecord]:
    """Returns the complete trials that keep the study's constraints, the best first.

    Args:
        limit: how many at most; None for all.
    """
    if not set_limits(study):
        return store.top_trials(study.id, limit)
    return keeping_constraints(study, store.top_trials(study.id))[:limit]


def set_limits(study: StudyRecord) -> Mapping[str, float]:
    """Returns the limits that the study sets, by name."""
    found: Mapping[str, float | None] = study.spec.get("constraints") or {}
    return {name: limit for name, limit in found.items() if limit is not None}
