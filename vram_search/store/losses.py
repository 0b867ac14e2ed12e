"""Losses of a whole study in one query, for answers that compare its trials with each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Select, and_, select

from vram_search.store.database import reading
from vram_search.store.read_rows import raw_columns, read_row
from vram_search.store.records import Evaluation
from vram_search.store.store import Store
from vram_search.store.tables import evaluations, trials

LossSums = Sequence[float | None]


def best_example_losses(store: Store, study_id: int) -> dict[int, LossSums]:
    """Values per eval example at each complete trial's best checkpoint, by trial number: summed
    nats, or the errors of generated answers.

    Trials without them are left out.

    Raises:
        StoreError: the database cannot be read.
    """
    at_best = and_(
        evaluations.c.trial_id == trials.c.id, evaluations.c.step == trials.c.eval_loss_step
    )
    query = (
        select(trials.c.number)
        .join(evaluations, at_best)
        .where(
            trials.c.study_id == study_id,
            trials.c.outcome == "complete",
            evaluations.c.example_loss_sums.is_not(None),
        )
    )
    found: dict[int, LossSums] = {}
    for number, values in _evaluations(store, query):
        if (paired := Evaluation(**values).paired_values) is not None:
            found[number] = paired
    return found


def all_evaluations(store: Store, study_id: int) -> dict[int, list[Evaluation]]:
    """Every trial's evaluations in step order, by trial number; without losses per example.

    Raises:
        StoreError: the database cannot be read.
    """
    query = (
        select(trials.c.number)
        .join(evaluations, evaluations.c.trial_id == trials.c.id)
        .where(trials.c.study_id == study_id)
        .order_by(trials.c.number, evaluations.c.step)
    )
    found: dict[int, list[Evaluation]] = {}
    for number, values in _evaluations(
        store, query, without=("example_loss_sums", "answer_errors")
    ):
        found.setdefault(number, []).append(Evaluation(**values))
    return found


def _evaluations(
    store: Store, query: Select[Any], without: Collection[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Trial number and values of each evaluation that a query joins; damaged values are None."""
    columns = [column for column in evaluations.c if column.name not in (*without, "trial_id")]
    with reading(store.engine) as connection:
        for row in connection.execute(query.add_columns(*raw_columns(columns))):
            yield row.number, read_row(row, columns)[0]
