"""Adds the errors of the answers that an evaluation generated."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vs_evaluations", sa.Column("answer_error", sa.Double))
    op.add_column("vs_evaluations", sa.Column("answer_errors", sa.JSON))
