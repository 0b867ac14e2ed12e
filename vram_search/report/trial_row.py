"""A trial as one flat row, the same in every --csv. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from vram_search.report.figures import required_bytes, run_seconds
from vram_search.report.trial_fields import TrialFields
from vram_search.spec.hyperparameters import DIMENSIONS, OPTIONAL

PLAN = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "enable_liger_kernel",
    "per_device_eval_batch_size",
    "expandable_segments",
)
COLUMNS = (
    "number",
    "outcome",
    "eval_loss",
    "bits_per_byte",
    "required_bytes",
    "required_bytes_origin",
    "reserved_bytes",
    "seconds",
    "steps_done",
    "steps_total",
    *(dimension.name for dimension in DIMENSIONS if not dimension.is_optional),
    *PLAN,
    "run",
    "model",
    *(dimension.name for dimension in OPTIONAL if dimension.name != "model"),
)
"""Stable: new columns come last. `required_bytes_origin` is measured or predicted, `reserved_bytes`
is measured, `run` names an imported run, `model` the base model of such a run, or of a trial if the
study lists several models."""


def trial_row(trial: TrialFields) -> dict[str, Any]:
    """The trial under COLUMNS; what is unknown is None."""
    size, origin = required_bytes(trial)
    provenance = trial.provenance or {}
    plan = trial.plan or {}
    return {
        "number": trial.number,
        "outcome": trial.outcome or "running",
        "eval_loss": trial.eval_loss,
        "bits_per_byte": trial.bits_per_byte,
        "required_bytes": size,
        "required_bytes_origin": None if size is None else origin,
        "reserved_bytes": (trial.measured or {}).get("reserved_bytes"),
        "seconds": run_seconds(trial),
        "steps_done": trial.steps_done,
        "steps_total": trial.steps_total,
        **{one.name: one.value_in(trial.hyperparameters) for one in DIMENSIONS},
        **{name: plan.get(name) for name in PLAN},
        "run": provenance.get("run"),
        "model": trial.hyperparameters.get("model") or provenance.get("model", {}).get("name"),
    }
