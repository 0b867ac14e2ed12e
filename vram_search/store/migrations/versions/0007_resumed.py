"""Adds the step at which a trial went on from the checkpoint of one that was lost."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vs_trials", sa.Column("resumed_step", sa.Integer))
