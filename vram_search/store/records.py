"""What the store gives back and takes: studies, trials, their losses and evaluations.

The fields of StudyRecord, TrialRecord, StepLoss and Evaluation are the columns of `tables.py`.
A loss that was nan or inf comes back as None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

Outcome = Literal["complete", "pruned", "oom", "infeasible", "diverged", "lost"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class StudyRecord:
    """One search as recorded; `revision` counts from 1 how often its specification changed."""

    id: int
    name: str
    created_at: datetime
    updated_at: datetime
    revision: int
    spec: dict[str, Any]
    data_hash: str
    card: dict[str, Any]
    model: dict[str, Any]


@dataclass(frozen=True)
class TrialRecord:
    """One trial as recorded.

    Attributes:
        outcome: None while the trial runs.
        retry_of: `number` of the lost trial of the same study that this one repeats.
        eval_loss: of the best evaluated checkpoint, at the study's cutoff; nats per token.
        eval_loss_step: optimizer step of that checkpoint.
        last_eval_loss: of the last evaluation.
        own_cutoff_eval_loss: of the last evaluation, at the trial's own cutoff: what other tools
            print.
        bits_per_byte: of the best checkpoint; comparable between tokenizers.
        predicted, measured: bytes by name: `allocated_bytes`, `reserved_bytes`, `process_bytes`,
            `device_bytes`, `required_bytes`, and `parts`, a dict of bytes by part.
            `predicted` also holds what the plan was judged by: `budget_bytes`; `margin`, the share
            by which required bytes were raised when this trial was planned; `excess`, the share of
            the budget by which they were above it then, <= 0 where they fitted.
            `measured` also holds, after an out-of-memory, `required_ratio_above`: measured /
            predicted required bytes are at least this.
        predicted_required_bytes, measured_required_bytes: copied out of those two for queries.
        seconds: by phase.
        error: `stage`, `step`, `message`, `remedy` and the like.
    """

    id: int
    study_id: int
    number: int
    outcome: Outcome | None
    stage: str | None
    hyperparameters: dict[str, Any]
    plan: dict[str, Any] | None
    seed: int
    data_hash: str
    retry_of: int | None
    eval_loss: float | None
    eval_loss_step: int | None
    last_eval_loss: float | None
    own_cutoff_eval_loss: float | None
    bits_per_byte: float | None
    predicted: dict[str, Any] | None
    measured: dict[str, Any] | None
    predicted_required_bytes: int | None
    measured_required_bytes: int | None
    seconds: dict[str, float] | None
    steps_done: int
    steps_total: int
    trainable_parameters: int | None
    versions: dict[str, str] | None
    device: str | None
    error: dict[str, Any] | None
    adapter_path: str | None
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class StepLoss:
    """Training loss logged at one optimizer step."""

    step: int
    loss: float | None
    learning_rate: float | None = None
    grad_norm: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the study's eval set.

    Attributes:
        fraction: of the trial's full horizon, 0 to 1.
        eval_loss: at the study's cutoff; nats per token.
        own_cutoff_eval_loss: at the trial's own cutoff.
        example_loss_sums: summed nats per eval example, in the order of the eval set.
        seconds: that the evaluation took.
    """

    step: int
    fraction: float
    eval_loss: float | None
    own_cutoff_eval_loss: float | None = None
    bits_per_byte: float | None = None
    example_loss_sums: Sequence[float | None] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class TrialResult:
    """What `Store.finish_trial` writes; fields as in TrialRecord."""

    outcome: Outcome
    eval_loss: float | None = None
    eval_loss_step: int | None = None
    last_eval_loss: float | None = None
    own_cutoff_eval_loss: float | None = None
    bits_per_byte: float | None = None
    measured: dict[str, Any] | None = None
    seconds: dict[str, float] | None = None
    steps_done: int = 0
    steps_total: int = 0
    trainable_parameters: int | None = None
    versions: dict[str, str] | None = None
    device: str | None = None
    error: dict[str, Any] | None = None
    adapter_path: str | None = None
    step_losses: Sequence[StepLoss] = ()
    evaluations: Sequence[Evaluation] = ()
