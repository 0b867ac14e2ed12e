"""Adds the hours of a queued study: a duration counts from the start of its run."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vs_queue", sa.Column("hours", sa.Double))
