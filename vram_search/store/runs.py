"""Records the runs of a study: each start of `vram-search run`, its end and the reason.

    run_id = start_run(store, study.id)
    end_run(store, run_id, RunEnd("the time is used up", seconds={"load": 31.0}))
    latest_run(store, study.id)

All functions raise StoreError when the database is locked, read-only, full or damaged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import func, insert, select, update

from vram_search.store.database import reading, writing
from vram_search.store.read_rows import read_table
from vram_search.store.store import Store, ranking_value
from vram_search.store.tables import runs, trials, workers

KILLED = "the run was killed"


@dataclass(frozen=True)
class RunRecord:
    """One run of a study as recorded.

    Attributes:
        first_trial: number of the first trial that the run may start; those before are older.
        best_before: lowest objective of the study at the start.
        seconds: spent by the run itself, by phase: `waiting` in the queue, `load` of the base model
            before the first trial, `eval` of the untuned model.
        stopped: the reason why it ended; None while it runs.
        remedy: of the error that ended it; empty if it ended regularly.
        ended_at: None while it runs.
        worker_id: its worker; None for a run of an older version.
    """

    id: int
    study_id: int
    first_trial: int
    best_before: float | None
    seconds: dict[str, float] | None
    stopped: str | None
    remedy: str | None
    started_at: datetime
    ended_at: datetime | None
    worker_id: int | None = None


@dataclass(frozen=True)
class RunEnd:
    """The end of a run; fields as in RunRecord."""

    stopped: str
    remedy: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


def start_run(store: Store, study_id: int, worker_id: int | None = None) -> int:
    """Records the start of a run and returns its row id. A run without an end was killed, unless
    its worker holds a lease."""
    numbers = select(func.max(trials.c.number)).where(trials.c.study_id == study_id)
    losses = select(func.min(ranking_value())).where(
        trials.c.study_id == study_id, trials.c.outcome == "complete"
    )
    alive = select(workers.c.id).where(workers.c.id == runs.c.worker_id).exists()
    killed = update(runs).where(runs.c.study_id == study_id, runs.c.ended_at.is_(None), ~alive)
    with writing(store.engine) as connection:
        latest = select(func.max(trials.c.started_at)).where(trials.c.study_id == study_id)
        ended_at = connection.scalar(latest) or datetime.now(UTC)
        connection.execute(killed.values(stopped=KILLED, ended_at=ended_at))
        last = connection.scalar(numbers)
        row = insert(runs).values(
            study_id=study_id,
            first_trial=0 if last is None else last + 1,
            best_before=connection.scalar(losses),
            started_at=datetime.now(UTC),
            worker_id=worker_id,
        )
        return int(connection.execute(row.returning(runs.c.id)).scalar_one())


def end_run(store: Store, run_id: int, end: RunEnd) -> None:
    """Records the end of a run."""
    change = update(runs).where(runs.c.id == run_id)
    with writing(store.engine) as connection:
        connection.execute(
            change.values(
                stopped=end.stopped,
                remedy=end.remedy,
                seconds=end.seconds,
                ended_at=datetime.now(UTC),
            )
        )


def latest_run(store: Store, study_id: int) -> RunRecord | None:
    """Returns the study's latest run; None for a study that an older version has run."""
    own, newest_first = runs.c.study_id == study_id, (runs.c.id.desc(),)
    with reading(store.engine) as connection:
        found = read_table(connection, runs, own, order_by=newest_first, limit=1)
    return RunRecord(**found[0]) if found else None
