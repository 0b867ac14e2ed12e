"""Keeps the evaluation of the untuned model for each base model of a study."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_KEPT = "data_hash, eval_loss, bits_per_byte, example_loss_sums, seconds, device, evaluated_at"


def upgrade() -> None:
    op.create_table(
        "vs_untuned_models",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("vs_studies.id"), primary_key=True),
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("data_hash", sa.String(128), nullable=False),
        sa.Column("eval_loss", sa.Double),
        sa.Column("bits_per_byte", sa.Double),
        sa.Column("example_loss_sums", sa.JSON),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("evaluated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.execute(
        f"INSERT INTO vs_untuned_models (study_id, model, {_KEPT}) "
        f"SELECT study_id, '', {_KEPT} FROM vs_untuned"
    )
    op.drop_table("vs_untuned")
