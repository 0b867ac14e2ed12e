"""The current tables of the record; `migrations/` holds the steps that led to them.

Optuna's tables (`studies`, `trials`, ...) live in the same database, so ours begin with `vs_`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from vram_search.store.column_types import FiniteFloat, FiniteJson, UtcDateTime
from vram_search.store.records import OUTCOMES

metadata = MetaData()

studies = Table(
    "vs_studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("spec", FiniteJson, nullable=False),
    Column("data_hash", String(128), nullable=False),
    Column("card", FiniteJson, nullable=False),
    Column("model", FiniteJson, nullable=False),
)

_OUTCOME_LIST = ", ".join(f"'{outcome}'" for outcome in OUTCOMES)

trials = Table(
    "vs_trials",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("vs_studies.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("outcome", String(16)),
    Column("stage", Text),
    Column("hyperparameters", FiniteJson, nullable=False),
    Column("plan", FiniteJson),
    Column("seed", BigInteger, nullable=False),
    Column("data_hash", String(128), nullable=False),
    Column("retry_of", Integer),
    Column("eval_loss", FiniteFloat),
    Column("eval_loss_step", Integer),
    Column("last_eval_loss", FiniteFloat),
    Column("own_cutoff_eval_loss", FiniteFloat),
    Column("bits_per_byte", FiniteFloat),
    Column("predicted", FiniteJson),
    Column("measured", FiniteJson),
    Column("predicted_required_bytes", BigInteger),
    Column("measured_required_bytes", BigInteger),
    Column("seconds", FiniteJson),
    Column("steps_done", Integer, nullable=False),
    Column("steps_total", Integer, nullable=False),
    Column("trainable_parameters", BigInteger),
    Column("versions", FiniteJson),
    Column("device", Text),
    Column("error", FiniteJson),
    Column("adapter_path", Text),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("fingerprint", String(64)),
    Column("provenance", FiniteJson),
    Column("other_training", Text),
    Column("resumed_step", Integer),
    Column("objective", Text),
    Column("objective_value", FiniteFloat),
    Column("worker_id", Integer),
    Column("host", String(255)),
    UniqueConstraint("study_id", "number", name="vs_trials_study_number"),
    CheckConstraint(f"outcome IN ({_OUTCOME_LIST})", name="vs_trials_outcome"),
    # NULL, of a trial of a search, equals no other.
    Index("vs_trials_study_fingerprint", "study_id", "fingerprint", unique=True),
)

step_losses = Table(
    "vs_step_losses",
    metadata,
    Column("trial_id", Integer, ForeignKey("vs_trials.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("loss", FiniteFloat),
    Column("learning_rate", FiniteFloat),
    Column("grad_norm", FiniteFloat),
)

evaluations = Table(
    "vs_evaluations",
    metadata,
    Column("trial_id", Integer, ForeignKey("vs_trials.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("fraction", FiniteFloat, nullable=False),
    Column("eval_loss", FiniteFloat),
    Column("own_cutoff_eval_loss", FiniteFloat),
    Column("bits_per_byte", FiniteFloat),
    Column("example_loss_sums", FiniteJson),
    Column("seconds", FiniteFloat, nullable=False),
    Column("answer_error", FiniteFloat),
    Column("answer_errors", FiniteJson),
)

queue = Table(
    "vs_queue",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", String(255), nullable=False),
    Column("position", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("request", String(16)),
    Column("is_detached", Boolean, nullable=False),
    Column("study_file", Text, nullable=False),
    Column("trials", Integer),
    Column("not_before", UtcDateTime),
    Column("until", UtcDateTime),
    Column("accept_changes", Boolean, nullable=False),
    Column("idempotency_key", String(255), unique=True),
    Column("attempts", Integer, nullable=False),
    Column("host", String(255)),
    Column("device", String(255)),
    Column("pid", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("message", Text),
    Column("remedy", Text),
    Column("worker_id", Integer),
    Column("card_bytes", BigInteger),
    Column("hours", Double),
    CheckConstraint(
        "state IN ('queued', 'running', 'paused', 'finished', 'failed', 'cancelled')",
        name="vs_queue_state",
    ),
)

events = Table(
    "vs_events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("study", String(255), nullable=False),
    Column("trial", Integer),
    Column("data", FiniteJson, nullable=False),
)

progress = Table(
    "vs_progress",
    metadata,
    Column("trial_id", Integer, ForeignKey("vs_trials.id"), primary_key=True),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("stage", String(16)),
    Column("step", Integer, nullable=False),
    Column("steps_total", Integer, nullable=False),
    Column("losses", FiniteJson, nullable=False),
    Column("evaluations", FiniteJson, nullable=False),
    Column("allocated_bytes", BigInteger),
    Column("process_bytes", BigInteger),
    Column("device_bytes", BigInteger),
)

runs = Table(
    "vs_runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("vs_studies.id"), nullable=False),
    Column("first_trial", Integer, nullable=False),
    Column("best_before", FiniteFloat),
    Column("seconds", FiniteJson),
    Column("stopped", Text),
    Column("remedy", Text),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("worker_id", Integer),
)

workers = Table(
    "vs_workers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("vs_studies.id"), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("device", Text),
    Column("budget_bytes", BigInteger),
    Column("started_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    sqlite_autoincrement=True,  # the id of a worker that has ended is not given again
)

untuned = Table(
    "vs_untuned_models",
    metadata,
    Column("study_id", Integer, ForeignKey("vs_studies.id"), primary_key=True),
    # The short name of the base model; empty if the study has one model.
    Column("model", String(64), primary_key=True),
    Column("data_hash", String(128), nullable=False),
    Column("eval_loss", FiniteFloat),
    Column("bits_per_byte", FiniteFloat),
    Column("example_loss_sums", FiniteJson),
    Column("seconds", FiniteFloat, nullable=False),
    Column("device", Text, nullable=False),
    Column("evaluated_at", UtcDateTime, nullable=False),
)

samples = Table(
    "vs_samples",
    metadata,
    Column("trial_id", Integer, ForeignKey("vs_trials.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("prompt", Text, nullable=False),
    Column("expected", Text),
    Column("untuned", Text, nullable=False),
    Column("tuned", Text, nullable=False),
)

product_runs = Table(
    "vs_product_runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("vs_studies.id"), nullable=False),
    Column("trial_number", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("epochs", FiniteFloat),
    Column("all_rows", Boolean, nullable=False),
    Column("data_hash", String(128), nullable=False),
    Column("outcome", String(16)),
    Column("plan", FiniteJson),
    Column("predicted", FiniteJson),
    Column("measured", FiniteJson),
    Column("eval_loss", FiniteFloat),
    Column("eval_loss_step", Integer),
    Column("bits_per_byte", FiniteFloat),
    Column("step_losses", FiniteJson, nullable=False),
    Column("evaluations", FiniteJson, nullable=False),
    Column("steps_done", Integer, nullable=False),
    Column("steps_total", Integer, nullable=False),
    Column("seconds", FiniteJson),
    Column("versions", FiniteJson),
    Column("device", Text),
    Column("error", FiniteJson),
    Column("adapter_path", Text),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    CheckConstraint(f"outcome IN ({_OUTCOME_LIST})", name="vs_product_runs_outcome"),
)

outbox = Table(
    "vs_outbox",
    metadata,
    Column("receiver", String(255), primary_key=True),
    Column("event_id", Integer, primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("claimed_at", UtcDateTime, nullable=False),
    Column("retry_at", UtcDateTime),
    Column("sent_at", UtcDateTime),
    Column("error", Text),
)
