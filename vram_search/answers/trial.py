"""One trial inside an answer: everything that is recorded about it, without database ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from typing_extensions import TypedDict

from vram_search.answers.plain import Described, Number, PlainPart, described
from vram_search.report.figures import required_bytes, run_seconds
from vram_search.store import Outcome, TrialRecord

_COPIES = ("predicted_required_bytes", "measured_required_bytes")
"""Columns that are copies out of `predicted` and `measured`."""
_NOT_SHOWN = ("damaged", "id", "study_id", "worker_id", "objective", "objective_value", *_COPIES)
"""Columns for the database alone."""

Bytes = Annotated[int, Described("Bytes.")]
Parts = Annotated[dict[str, int], Described("Bytes by part.")]


class Predicted(TypedDict, total=False):
    """Predicted bytes of the plan, and the limits that it was judged by."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    allocated_bytes: Bytes
    reserved_bytes: Bytes
    required_bytes: Bytes
    process_bytes: Bytes
    moment: Annotated[str, Described("The moment of the peak.")]
    parts: Parts
    budget_bytes: Annotated[int, Described("Bytes that the allocator could use then.")]
    margin: Annotated[float, Described("Share added to the required bytes; 0.02 is 2 %.")]
    excess: Annotated[
        float, Described("Share of the budget that was missing; at most 0 if it fitted.")
    ]
    step_seconds: Annotated[float, Described("Seconds of an optimizer step.")]


class Measured(TypedDict, total=False):
    """Measured figures of probe and training; absent keys were not measured."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    allocated_bytes: Bytes
    reserved_bytes: Bytes
    required_bytes: Bytes
    process_bytes: Bytes
    device_bytes: Bytes
    parts: Parts
    step_seconds: Annotated[float, Described("Median seconds of an optimizer step.")]


class TrialError(TypedDict, total=False):
    """The reason why a trial ended early."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    stage: str
    step: int
    message: str
    remedy: str
    cause: Annotated[str, Described("Of a lost trial: `hang` or `host memory`.")]
    requested_bytes: Bytes
    batch_shape: Annotated[list[int], Described("Rows and tokens of the batch.")]
    others_took_bytes: Bytes
    parts: Parts


@dataclass(frozen=True, kw_only=True)
class TrialAnswer(PlainPart):
    """A trial as recorded. Losses are nats per answer token of the study's evaluation rows."""

    number: int = field(metadata=described("Optuna's number of the trial, from 0."))
    outcome: Outcome | None = field(metadata=described("null while the trial runs."))
    stage: str | None = field(
        metadata=described("The stage of a running trial: plan, probe, train.")
    )
    hyperparameters: dict[str, Any] = field(
        metadata=described(
            "Sampled values, named as in a study file; null if unknown (imported runs)."
        )
    )
    plan: dict[str, Any] | None = field(
        metadata=described("Memory plan, named as in transformers' TrainingArguments.")
    )
    seed: int
    data_hash: str = field(metadata=described("Hash of the rows that the trial was trained on."))
    retry_of: int | None = field(metadata=described("Number of the trial that this one repeats."))
    resumed_step: int | None = field(
        metadata=described(
            "Optimizer step of the checkpoint from which the trial went on, after the one "
            "that it repeats was lost; null if it started at its first step."
        )
    )
    eval_loss: float | None = field(metadata=described("Of the best evaluated checkpoint."))
    eval_loss_step: int | None = field(metadata=described("Optimizer step of that checkpoint."))
    last_eval_loss: float | None = field(metadata=described("Of the last evaluation."))
    own_cutoff_eval_loss: float | None = field(
        metadata=described("Of the last evaluation, at the trial's own cutoff_len.")
    )
    bits_per_byte: float | None = field(metadata=described("Comparable between tokenizers."))
    value: float | None = field(
        metadata=described("The figure by which the study ranks its trials; lower is better.")
    )
    value_name: str = field(metadata=described("Its name: the study's objective."))
    predicted: Predicted | None
    measured: Measured | None
    seconds: dict[str, Number] | None = field(metadata=described("Seconds by phase."))
    steps_done: int = field(metadata=described("Optimizer steps."))
    steps_total: int = field(metadata=described("Optimizer steps of a whole run."))
    trainable_parameters: int | None
    versions: dict[str, str] | None = field(metadata=described("Versions by package."))
    device: str | None = field(metadata=described("Name of the device that trained."))
    host: str | None = field(
        metadata=described("Name of the machine that trained; null if unknown.")
    )
    error: TrialError | None
    adapter_path: str | None = field(metadata=described("Folder of the adapter that was kept."))
    started_at: datetime
    finished_at: datetime | None
    fingerprint: str | None = field(metadata=described("SHA-256 of an imported run's files."))
    provenance: dict[str, Any] | None = field(
        metadata=described("Origin of an imported run; null for a trial of a search.")
    )
    other_training: str | None = field(
        metadata=described(
            "Stage and finetuning type of an imported run that is no supervised LoRA "
            "training, such as dpo; it is not ranked."
        )
    )
    required_bytes: int | None = field(
        metadata=described("Smallest allocator limit under which the trial runs, in bytes.")
    )
    required_bytes_origin: Literal["measured", "predicted"] | None = field(
        metadata=described("null if the bytes are unknown.")
    )
    total_seconds: Number | None = field(
        metadata=described(
            "Seconds from start to record; for an imported run, what its tool reports."
        )
    )

    @property
    def predicted_required_bytes(self) -> int | None:
        """Bytes, as in `predicted`."""
        return (self.predicted or {}).get("required_bytes")

    @property
    def measured_required_bytes(self) -> int | None:
        """Bytes, as in `measured`."""
        return (self.measured or {}).get("required_bytes")


def trial_answer(trial: TrialRecord) -> TrialAnswer:
    """Builds a TrialAnswer from a trial's record."""
    recorded = {name: value for name, value in vars(trial).items() if name not in _NOT_SHOWN}
    size, origin = required_bytes(trial)
    return TrialAnswer(
        **recorded,
        value=trial.value,
        value_name=trial.value_name,
        required_bytes=size,
        required_bytes_origin=None if size is None else origin,
        total_seconds=run_seconds(trial),
    )
