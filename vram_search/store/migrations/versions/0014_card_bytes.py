"""Adds the bytes of the card that a study in the queue takes, so that small ones share it."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vs_queue", sa.Column("card_bytes", sa.BigInteger))
