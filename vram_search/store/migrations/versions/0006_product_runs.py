"""Adds product runs: trials that are trained again after the search."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OUTCOMES = "'complete', 'pruned', 'oom', 'infeasible', 'diverged', 'lost', 'unknown'"


def upgrade() -> None:
    op.create_table(
        "vs_product_runs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("vs_studies.id"), nullable=False),
        sa.Column("trial_number", sa.Integer, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("epochs", sa.Double),
        sa.Column("all_rows", sa.Boolean, nullable=False),
        sa.Column("data_hash", sa.String(128), nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("plan", sa.JSON),
        sa.Column("predicted", sa.JSON),
        sa.Column("measured", sa.JSON),
        sa.Column("eval_loss", sa.Double),
        sa.Column("eval_loss_step", sa.Integer),
        sa.Column("bits_per_byte", sa.Double),
        sa.Column("step_losses", sa.JSON, nullable=False),
        sa.Column("evaluations", sa.JSON, nullable=False),
        sa.Column("steps_done", sa.Integer, nullable=False),
        sa.Column("steps_total", sa.Integer, nullable=False),
        sa.Column("seconds", sa.JSON),
        sa.Column("versions", sa.JSON),
        sa.Column("device", sa.Text),
        sa.Column("error", sa.JSON),
        sa.Column("adapter_path", sa.Text),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(f"outcome IN ({OUTCOMES})", name="vs_product_runs_outcome"),
    )
