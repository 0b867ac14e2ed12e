"""A study's own constraints, as Optuna's: by which share a recorded trial breaks each."""

from __future__ import annotations

from collections.abc import Mapping

from vram_search.spec.constraints import Constraints, saved_adapter_bytes
from vram_search.store import TrialRecord


def record_excess(constraints: Constraints, record: TrialRecord) -> dict[str, float]:
    """Returns the share by which a trial breaks each constraint; <= 0 where it keeps it.

    Measured figures of a complete trial count, otherwise the predicted ones.
    """
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
