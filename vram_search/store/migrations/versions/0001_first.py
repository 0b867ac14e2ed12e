"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vs_studies",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(255), nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("data_hash", sa.String(128), nullable=False),
        sa.Column("card", sa.JSON, nullable=False),
        sa.Column("model", sa.JSON, nullable=False),
    )
    op.create_table(
        "vs_trials",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("vs_studies.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("stage", sa.Text),
        sa.Column("hyperparameters", sa.JSON, nullable=False),
        sa.Column("plan", sa.JSON),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("data_hash", sa.String(128), nullable=False),
        sa.Column("retry_of", sa.Integer),
        sa.Column("eval_loss", sa.Double),
        sa.Column("eval_loss_step", sa.Integer),
        sa.Column("last_eval_loss", sa.Double),
        sa.Column("own_cutoff_eval_loss", sa.Double),
        sa.Column("bits_per_byte", sa.Double),
        sa.Column("predicted", sa.JSON),
        sa.Column("measured", sa.JSON),
        sa.Column("predicted_required_bytes", sa.BigInteger),
        sa.Column("measured_required_bytes", sa.BigInteger),
        sa.Column("seconds", sa.JSON),
        sa.Column("steps_done", sa.Integer, nullable=False),
        sa.Column("steps_total", sa.Integer, nullable=False),
        sa.Column("trainable_parameters", sa.BigInteger),
        sa.Column("versions", sa.JSON),
        sa.Column("device", sa.Text),
        sa.Column("error", sa.JSON),
        sa.Column("adapter_path", sa.Text),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.UniqueConstraint("study_id", "number", name="vs_trials_study_number"),
        sa.CheckConstraint(
            "outcome IN ('complete', 'pruned', 'oom', 'infeasible', 'diverged', 'lost')",
            name="vs_trials_outcome",
        ),
    )
    op.create_table(
        "vs_step_losses",
        sa.Column("trial_id", sa.Integer, sa.ForeignKey("vs_trials.id"), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("loss", sa.Double),
        sa.Column("learning_rate", sa.Double),
        sa.Column("grad_norm", sa.Double),
    )
    op.create_table(
        "vs_evaluations",
        sa.Column("trial_id", sa.Integer, sa.ForeignKey("vs_trials.id"), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("fraction", sa.Double, nullable=False),
        sa.Column("eval_loss", sa.Double),
        sa.Column("own_cutoff_eval_loss", sa.Double),
        sa.Column("bits_per_byte", sa.Double),
        sa.Column("example_loss_sums", sa.JSON),
        sa.Column("seconds", sa.Double, nullable=False),
    )
