"""Losses of a whole study in one query, for answers that compare its trials with each other."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, select

from vram_search.store.database import reading
from vram_search.store.records import Evaluation
from vram_search.store.store import Store
from vram_search.store.tables import evaluations, trials

LossSums = Sequence[float | None]


def best_example_losses(store: Store, study_id: int) -> dict[int, LossSums]:
    """Summed nats per eval example at each complete trial's best checkpoint, by trial number.

    Trials without them are left out.

    Raises:
        StoreError: the database cannot be read.
    """
    at_best = and_(
        evaluations.c.trial_id == trials.c.id, evaluations.c.step == trials.c.eval_loss_step
    )
    query = (
        select(trials.c.number, evaluations.c.example_loss_sums)
        .join(evaluations, at_best)
        .where(
            trials.c.study_id == study_id,
            trials.c.outcome == "complete",
            evaluations.c.example_loss_sums.is_not(None),
        )
    )
    with reading(store.engine) as connection:
        return {number: sums for number, sums in connection.execute(query)}


def all_evaluations(store: Store, study_id: int) -> dict[int, list[Evaluation]]:
    """Every trial's evaluations in step order, by trial number; without losses per example.

    Raises:
        StoreError: the database cannot be read.
    """
    query = (
        select(
            trials.c.number,
            evaluations.c.step,
            evaluations.c.fraction,
            evaluations.c.eval_loss,
            evaluations.c.bits_per_byte,
            evaluations.c.seconds,
        )
        .join(evaluations, evaluations.c.trial_id == trials.c.id)
        .where(trials.c.study_id == study_id)
        .order_by(trials.c.number, evaluations.c.step)
    )
    found: dict[int, list[Evaluation]] = {}
    with reading(store.engine) as connection:
        for number, *values in connection.execute(query):
            step, fraction, eval_loss, bits_per_byte, seconds = values
            evaluation = Evaluation(
                step, fraction, eval_loss, bits_per_byte=bits_per_byte, seconds=seconds
            )
            found.setdefault(number, []).append(evaluation)
    return found
