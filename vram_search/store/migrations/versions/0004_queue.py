"""Adds the queue of studies, the events of the record, and the progress of running trials."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vs_queue",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study", sa.String(255), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("request", sa.String(16)),
        sa.Column("is_detached", sa.Boolean, nullable=False),
        sa.Column("study_file", sa.Text, nullable=False),
        sa.Column("trials", sa.Integer),
        sa.Column("not_before", sa.DateTime(timezone=True)),
        sa.Column("until", sa.DateTime(timezone=True)),
        sa.Column("accept_changes", sa.Boolean, nullable=False),
        sa.Column("idempotency_key", sa.String(255), unique=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("host", sa.String(255)),
        sa.Column("device", sa.String(255)),
        sa.Column("pid", sa.Integer),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("message", sa.Text),
        sa.Column("remedy", sa.Text),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'paused', 'finished', 'failed', 'cancelled')",
            name="vs_queue_state",
        ),
    )
    op.create_table(
        "vs_events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("study", sa.String(255), nullable=False),
        sa.Column("trial", sa.Integer),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_table(
        "vs_progress",
        sa.Column("trial_id", sa.Integer, sa.ForeignKey("vs_trials.id"), primary_key=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stage", sa.String(16)),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("steps_total", sa.Integer, nullable=False),
        sa.Column("losses", sa.JSON, nullable=False),
        sa.Column("evaluations", sa.JSON, nullable=False),
        sa.Column("allocated_bytes", sa.BigInteger),
        sa.Column("process_bytes", sa.BigInteger),
        sa.Column("device_bytes", sa.BigInteger),
    )
