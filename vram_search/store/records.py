"""Records that the store reads and writes: studies, trials, losses and evaluations.

The fields of StudyRecord, TrialRecord, StepLoss and Evaluation are the columns of `tables.py`.
A loss that was nan or inf comes back as None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal, get_args

from vram_search.spec.objective import EVAL_LOSS, Objective, recorded_objective

Outcome = Literal["complete", "pruned", "oom", "infeasible", "diverged", "lost", "unknown"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
UNKNOWN_SEED = -1
UNKNOWN_DATA = "unknown"


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
    damaged: tuple[str, ...] = ()

    @property
    def is_imported(self) -> bool:
        """True if the trials were run elsewhere and imported; the study is then no search."""
        return "imported" in self.spec

    @property
    def ranked_by(self) -> Objective:
        """The figure by which the study's trials are ranked."""
        return recorded_objective(self.spec)

    def of_trial(self, trial: TrialRecord) -> StudyRecord:
        """Returns the study as it was for a trial: of several base models, the trial's own."""
        name, entries = trial.hyperparameters.get("model"), self.model.get("models")
        if name is None or not isinstance(entries, list):
            return self
        places = [i for i, one in enumerate(entries) if one.get("name") == name]
        if not places:
            return self
        specs = self.spec.get("model")
        own = specs[places[0]] if isinstance(specs, list) else {}
        identity = self.spec.get("identity") or {}
        objective = self.spec.get("objective") or identity.get("objective")
        spec = {**self.spec, "model": own, "objective": objective}
        return replace(self, spec=spec, model=entries[places[0]])

    @property
    def strategies(self) -> list[list[Any]]:
        """Pairs of a trial's number and the strategy that chose from there on; before there was a
        choice it was `tpe`."""
        recorded = self.spec.get("strategies", [[0, self.spec.get("strategy", "tpe")]])
        return [
            pair
            for pair in (recorded if isinstance(recorded, list) else ())
            if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int)
        ]

    def strategy_of(self, number: int) -> str:
        """The strategy that proposed a trial and decided at its rungs."""
        return next((name for first, name in reversed(self.strategies) if first <= number), "tpe")


@dataclass(frozen=True)
class TrialRecord:
    """One trial as recorded.

    Attributes:
        outcome: None while the trial runs. Only an imported run can be `unknown`: its files do not
            say how it ended.
        retry_of: `number` of the trial of the same study that this one repeats: it was lost, or
            stopped at a rung and restarted.
        eval_loss: loss of the best evaluated checkpoint at the study's cutoff; nats per token.
        eval_loss_step: optimizer step of that checkpoint.
        last_eval_loss: eval_loss of the last evaluation.
        own_cutoff_eval_loss: last eval_loss at the trial's own cutoff, which other tools
            print.
        bits_per_byte: bits per byte of the best checkpoint; comparable between tokenizers.
        predicted, measured: bytes by name: `allocated_bytes`, `reserved_bytes`, `process_bytes`,
            `device_bytes`, `required_bytes`, and `parts`, a dict of bytes by part.
            `predicted` also holds what the plan was judged by: `budget_bytes`; `margin`, the share
            by which required bytes were raised when this trial was planned; `excess`, the share of
            the budget by which they were above it then, <= 0 where they fitted; `step_seconds`;
            `longest_tokens` and `longest_eval_tokens`, of the longest rows as the trial cuts them.
            In `measured`, `allocated_bytes` and `reserved_bytes` are torch's peaks over probe and
            training, `parts` is the probe's allocated peak by part. It also holds:
            `probe_allocated_bytes`, `probe_reserved_bytes`, `probe_step_seconds`; `step_seconds`,
            the median of the optimizer steps after the first; `probe_miss`, the run's peak as a
            multiple of the probe's where that did not bound it; `leaked_bytes`, `survivors` (in
            words), `base_intact`; of NVML's samples `process_bytes_source`, `utilization_percent`,
            `power_watts`, `sm_clock_mhz` (means), `temperature_celsius` (highest),
            `least_sm_clock_mhz`, `samples_per_second`, and `by_phase`, the same by phase with
            `seconds`; `emulated`, how to name the card that a larger device played; after an
            out-of-memory `required_ratio_above`: measured / predicted required bytes are at least
            this. What was not measured is left out.
        predicted_required_bytes, measured_required_bytes: copied out of those two for queries.
        seconds: by phase: `between`, from the end of the run's previous training until this trial
            was planned; `plan`; `load`, the wait for the training process; `oom`, all of the
            earlier plans that ran out of memory; `probe`, `train`, `eval`, `save`.
        error: `stage`, `step`, `message`, `remedy`; after an out-of-memory also
            `requested_bytes`, `batch_shape` (rows, tokens), `parts`, what was allocated then, and
            `others_took_bytes`, by how much other programs had shrunk the budget meanwhile. `cause`
            of a lost trial: `hang` or `host memory`, if it is known.
        other_training: of an imported run that is no supervised LoRA training, its stage and
            finetuning type in words ("dpo", "sft, full"). Such a run is not ranked, and no search
            learns from it. None for all others.
        resumed_step: optimizer step of the checkpoint from which the trial went on after the trial
            that it repeats was lost. Losses up to there come from the checkpoint; None if the trial
            started at its first step.
        objective: name of the figure by which the trial is ranked; None stands for eval_loss.
        objective_value: that figure of the best checkpoint; None if it is the eval_loss.
        fingerprint, provenance: of an imported run alone, None otherwise: see ImportedTrial. Its
            hyperparameters, seed and data hash may be unknown (None, UNKNOWN_SEED, UNKNOWN_DATA);
            `started_at` is when it was imported, and `finished_at` is None.
        worker_id, host: the worker that ran it (`store.workers`) and its machine; None for an
            imported run and for trials of older versions.
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
    fingerprint: str | None = None
    provenance: dict[str, Any] | None = None
    other_training: str | None = None
    resumed_step: int | None = None
    objective: str | None = None
    objective_value: float | None = None
    worker_id: int | None = None
    host: str | None = None
    damaged: tuple[str, ...] = ()
    """Names of the values that the database holds in a form that cannot be read; they are None."""

    @property
    def value(self) -> float | None:
        """The figure by which the trial is ranked."""
        return self.eval_loss if self.objective is None else self.objective_value

    @property
    def value_name(self) -> str:
        """The name of that figure."""
        return self.objective or EVAL_LOSS


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
        fraction: share of the trial's full length, 0 to 1.
        eval_loss: at the study's cutoff; nats per token.
        own_cutoff_eval_loss: at the trial's own cutoff.
        example_loss_sums: summed nats per eval example, in the order of the eval set.
        answer_error: mean of `answer_errors`; None if no answers were generated.
        answer_errors: 1 - the score of each generated answer, in the order of the eval set.
        seconds: that the evaluation took.
    """

    step: int
    fraction: float
    eval_loss: float | None
    own_cutoff_eval_loss: float | None = None
    bits_per_byte: float | None = None
    example_loss_sums: Sequence[float | None] | None = None
    seconds: float = 0.0
    answer_error: float | None = None
    answer_errors: Sequence[float | None] | None = None

    @property
    def ranking(self) -> float | None:
        """The figure by which the trial's best checkpoint is chosen."""
        return self.eval_loss if self.answer_error is None else self.answer_error

    @property
    def paired_values(self) -> Sequence[float | None] | None:
        """Values per row, which two trials are compared by: errors of answers, or summed nats."""
        return self.example_loss_sums if self.answer_errors is None else self.answer_errors


@dataclass(frozen=True)
class TrialResult:
    """Values that `Store.finish_trial` writes; fields as in TrialRecord."""

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
    objective: str | None = None
    objective_value: float | None = None
    step_losses: Sequence[StepLoss] = ()
    evaluations: Sequence[Evaluation] = ()

    @property
    def value(self) -> float | None:
        """The figure by which the trial is ranked."""
        return self.eval_loss if self.objective is None else self.objective_value

    def columns(self) -> dict[str, Any]:
        """Values of the table `trials`; step losses and evaluations have tables of their own."""
        names = {field.name for field in fields(self)} - {"step_losses", "evaluations"}
        values = {name: getattr(self, name) for name in names}
        return values | {"measured_required_bytes": (self.measured or {}).get("required_bytes")}


@dataclass(frozen=True)
class ImportedTrial:
    """A run made elsewhere, as `Store.import_trials` takes it.

    Attributes:
        fingerprint: SHA-256 of what the run was read from, in hex; the same wherever it lies.
        provenance: `source` (llamafactory, axolotl, trl, trainer, wandb, mlflow, optuna, csv),
            `path`, `run` (its name), `model` (`name`, and `parameters` where the shape is known),
            `files` read, `settings` that the tool was given, `adapter` (settings by which the
            adapter differs from plain LoRA, such as `use_dora`), `reported` figures without a
            column here, `unknown` names and `notes`.
        hyperparameters: those of `spec.Hyperparameters`, None where unknown.
        result: `eval_loss` is the tool's own, at the run's own cutoff.
    """

    fingerprint: str
    provenance: dict[str, Any]
    hyperparameters: dict[str, Any]
    result: TrialResult
    seed: int | None = None
    other_training: str | None = None
