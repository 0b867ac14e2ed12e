"""Adds the runs of each study: start, end, reason, and the seconds that no trial has."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vs_runs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("vs_studies.id"), nullable=False),
        sa.Column("first_trial", sa.Integer, nullable=False),
        sa.Column("best_before", sa.Double),
        sa.Column("seconds", sa.JSON),
        sa.Column("stopped", sa.Text),
        sa.Column("remedy", sa.Text),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
    )
