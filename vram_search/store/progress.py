"""Progress of running trials: one row per trial, replaced every few seconds and deleted at its end.

The losses of a finished trial are in `vs_step_losses`; these are for whoever watches it run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, delete, insert

from vram_search.store.database import reading, writing
from vram_search.store.read_rows import read_table
from vram_search.store.tables import progress


@dataclass(frozen=True)
class Progress:
    """The state of a running trial.

    Attributes:
        losses: pairs of optimizer step and training loss, in nats per token.
        evaluations: pairs of optimizer step and eval_loss.
        allocated_bytes: torch's, at the latest step.
        process_bytes, device_bytes: NVML's latest; None if not available.
    """

    stage: str
    step: int
    steps_total: int
    losses: Sequence[tuple[int, float | None]] = ()
    evaluations: Sequence[tuple[int, float | None]] = ()
    allocated_bytes: int | None = None
    process_bytes: int | None = None
    device_bytes: int | None = None
    updated_at: datetime | None = None


def record_progress(engine: Engine, trial_id: int, state: Progress) -> None:
    """Replaces the progress of a trial."""
    values = {**asdict(state), "updated_at": datetime.now(UTC)}
    with writing(engine) as connection:
        connection.execute(delete(progress).where(progress.c.trial_id == trial_id))
        connection.execute(insert(progress).values(trial_id=trial_id, **values))


def progress_of(engine: Engine, trial_id: int) -> Progress | None:
    """The progress of a running trial; None before its first report and after its end."""
    columns = [column for column in progress.c if column.name != "trial_id"]
    own = progress.c.trial_id == trial_id
    with reading(engine) as connection:
        found = read_table(connection, progress, own, columns=columns)
    return Progress(**found[0]) if found else None
