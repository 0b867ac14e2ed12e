"""Adds the outcome `unknown`, and the kind of training of imported runs that are no LoRA SFT."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OUTCOMES = "'complete', 'pruned', 'oom', 'infeasible', 'diverged', 'lost', 'unknown'"
_CHECK = sa.CheckConstraint(f"outcome IN ({_OUTCOMES})", name="vs_trials_outcome")


def _children() -> dict[str, tuple[sa.Column[Any], ...]]:
    """Columns of the tables that point to a trial: new objects, since each belongs to one table."""
    return {
        "vs_step_losses": (
            sa.Column("trial_id", sa.Integer, sa.ForeignKey("vs_trials.id"), primary_key=True),
            sa.Column("step", sa.Integer, primary_key=True),
            sa.Column("loss", sa.Double),
            sa.Column("learning_rate", sa.Double),
            sa.Column("grad_norm", sa.Double),
        ),
        "vs_evaluations": (
            sa.Column("trial_id", sa.Integer, sa.ForeignKey("vs_trials.id"), primary_key=True),
            sa.Column("step", sa.Integer, primary_key=True),
            sa.Column("fraction", sa.Double, nullable=False),
            sa.Column("eval_loss", sa.Double),
            sa.Column("own_cutoff_eval_loss", sa.Double),
            sa.Column("bits_per_byte", sa.Double),
            sa.Column("example_loss_sums", sa.JSON),
            sa.Column("seconds", sa.Double, nullable=False),
        ),
    }


def upgrade() -> None:
    op.add_column("vs_trials", sa.Column("other_training", sa.Text))
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_for_sqlite()
        return
    op.drop_constraint("vs_trials_outcome", "vs_trials", type_="check")
    op.create_check_constraint("vs_trials_outcome", "vs_trials", f"outcome IN ({_OUTCOMES})")


def _rebuild_for_sqlite() -> None:
    """SQLite changes no constraint, so the table is rebuilt. Foreign keys are enforced inside a
    transaction, so the tables that point to it are set aside meanwhile."""
    children = _children()
    for name in children:
        op.execute(f"CREATE TABLE {name}_aside AS SELECT * FROM {name}")
        op.drop_table(name)
    trials = sa.Table("vs_trials", sa.MetaData(), autoload_with=op.get_bind())
    # Whether check constraints are reflected depends on SQLAlchemy's version.
    trials.constraints -= {one for one in trials.constraints if isinstance(one, sa.CheckConstraint)}
    with op.batch_alter_table(
        "vs_trials", recreate="always", copy_from=trials, table_args=(_CHECK,)
    ):
        pass
    for name, columns in children.items():
        op.create_table(name, *columns)
        names = ", ".join(column.name for column in columns)
        op.execute(f"INSERT INTO {name} ({names}) SELECT {names} FROM {name}_aside")
        op.drop_table(f"{name}_aside")
