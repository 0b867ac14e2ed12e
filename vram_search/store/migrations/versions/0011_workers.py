"""Adds the workers of each study with their leases, and who ran a trial, a run, a queue entry."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vs_workers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("vs_studies.id"), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("device", sa.Text),
        sa.Column("budget_bytes", sa.BigInteger),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.add_column("vs_trials", sa.Column("worker_id", sa.Integer))
    op.add_column("vs_trials", sa.Column("host", sa.String(255)))
    op.add_column("vs_queue", sa.Column("worker_id", sa.Integer))
    op.add_column("vs_runs", sa.Column("worker_id", sa.Integer))
