"""Adds each trial's objective: its name, and its value if it is not the eval_loss."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vs_trials", sa.Column("objective", sa.Text))
    op.add_column("vs_trials", sa.Column("objective_value", sa.Double))
