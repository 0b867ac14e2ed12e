"""Adds each study's evaluation of the untuned model, and answers of untuned and tuned model."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vs_untuned",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("vs_studies.id"), primary_key=True),
        sa.Column("data_hash", sa.String(128), nullable=False),
        sa.Column("eval_loss", sa.Double),
        sa.Column("bits_per_byte", sa.Double),
        sa.Column("example_loss_sums", sa.JSON),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("evaluated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "vs_samples",
        sa.Column("trial_id", sa.Integer, sa.ForeignKey("vs_trials.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("expected", sa.Text),
        sa.Column("untuned", sa.Text, nullable=False),
        sa.Column("tuned", sa.Text, nullable=False),
    )
