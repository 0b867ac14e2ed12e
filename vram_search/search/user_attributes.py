"""Builds Optuna's user attributes, which a dashboard shows besides the sampler's numbers."""

from __future__ import annotations

from typing import Any

from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.spec.plan import MemoryPlan
from vram_search.store import TrialRecord


def user_attributes(record: TrialRecord) -> dict[str, Any]:
    """Outcome, hyperparameters that the sampler knows by index, plan, bytes, and what went wrong.

    Unknown values, and optional hyperparameters at their default, are left out.
    """
    measured = record.measured or {}
    found = {
        "outcome": record.outcome,
        **{
            dimension.name: record.hyperparameters.get(dimension.name)
            for dimension in DIMENSIONS
            if dimension.kind in ("ordered", "float")
        },
        "plan": MemoryPlan.model_validate(record.plan).label if record.plan else None,
        "predicted_required_bytes": record.predicted_required_bytes,
        "measured_required_bytes": record.measured_required_bytes,
        "measured_allocated_bytes": measured.get("allocated_bytes"),
        "measured_reserved_bytes": measured.get("reserved_bytes"),
        "error": (record.error or {}).get("message"),
    }
    return {name: value for name, value in found.items() if value is not None}
