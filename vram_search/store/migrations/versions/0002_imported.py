"""Adds the origin of imported runs, and the fingerprint that identifies each."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vs_trials", sa.Column("fingerprint", sa.String(64)))
    op.add_column("vs_trials", sa.Column("provenance", sa.JSON))
    op.create_index(
        "vs_trials_study_fingerprint", "vs_trials", ["study_id", "fingerprint"], unique=True
    )
