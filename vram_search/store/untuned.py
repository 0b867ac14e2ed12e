"""Records the untuned model's evaluation of a study, and sample answers of untuned and tuned model.

    record_untuned(store, study.id, UntunedEvaluation(...))
    untuned_evaluation(store, study.id)

All functions raise StoreError when the database is locked, read-only, full or damaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, insert

from vram_search.store.database import reading, writing
from vram_search.store.read_rows import read_table
from vram_search.store.records import StudyRecord, TrialRecord
from vram_search.store.store import Store
from vram_search.store.tables import samples, untuned


@dataclass(frozen=True)
class UntunedEvaluation:
    """The base model's evaluation without an adapter, on the study's rows and tokens.

    Attributes:
        data_hash: of the study's rows.
        eval_loss: nats per token; None if it was not finite.
        example_loss_sums: summed nats per eval example, in the order of the eval set.
        seconds: that the evaluation took.
    """

    data_hash: str
    eval_loss: float | None
    bits_per_byte: float | None
    example_loss_sums: Sequence[float | None] | None
    seconds: float
    device: str
    evaluated_at: datetime


@dataclass(frozen=True)
class Sample:
    """A prompt and its answers.

    Attributes:
        expected: the data set's own answer; None for a prompt from elsewhere.
    """

    prompt: str
    expected: str | None
    untuned: str
    tuned: str


def record_untuned(
    store: Store, study_id: int, evaluation: UntunedEvaluation, model: str | None = None
) -> None:
    """Records the evaluation; an earlier one is replaced.

    Args:
        model: short name of the base model, of a study of several.
    """
    values = {"study_id": study_id, "model": model or "", **asdict(evaluation)}
    with writing(store.engine) as connection:
        connection.execute(delete(untuned).where(*_place(study_id, model)))
        connection.execute(insert(untuned).values(**values))


def untuned_evaluation(
    store: Store, study_id: int, model: str | None = None
) -> UntunedEvaluation | None:
    """Returns the study's evaluation of the untuned model; None if there is none.

    Args:
        model: short name of the base model, of a study of several.
    """
    columns = [column for column in untuned.c if column.name not in ("study_id", "model")]
    with reading(store.engine) as connection:
        found = read_table(connection, untuned, *_place(study_id, model), columns=columns)
    return UntunedEvaluation(**found[0]) if found else None


def _place(study_id: int, model: str | None) -> tuple[ColumnElement[bool], ...]:
    return untuned.c.study_id == study_id, untuned.c.model == (model or "")


def untuned_loss(
    store: Store, study: StudyRecord, trial: TrialRecord | None = None
) -> float | None:
    """Returns the untuned model's objective on the study's present rows; None if unknown.

    Args:
        trial: its base model counts, of a study of several.
    """
    model = None if trial is None else trial.hyperparameters.get("model")
    found = untuned_evaluation(store, study.id, model)
    if found is None or found.data_hash != study.data_hash:
        return None
    return study.ranked_by.value_of(found)


def record_samples(store: Store, trial_id: int, found: Sequence[Sample]) -> None:
    """Records a trial's samples; earlier ones are replaced."""
    rows = [
        {"trial_id": trial_id, "position": position, **asdict(sample)}
        for position, sample in enumerate(found)
    ]
    with writing(store.engine) as connection:
        connection.execute(delete(samples).where(samples.c.trial_id == trial_id))
        connection.execute(insert(samples), rows)


def recorded_samples(store: Store, trial_id: int) -> list[Sample]:
    """Returns a trial's samples in their order."""
    columns = [samples.c[name] for name in ("prompt", "expected", "untuned", "tuned")]
    own, order = samples.c.trial_id == trial_id, (samples.c.position,)
    with reading(store.engine) as connection:
        found = read_table(connection, samples, own, columns=columns, order_by=order)
    return [Sample(**values) for values in found]
