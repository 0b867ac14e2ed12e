"""Finds earlier searches to learn from: other studies of the database and shipped runs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from pydantic import ValidationError

from vram_search.search.gp.transfer import SourceTask, shipped
from vram_search.spec import Hyperparameters
from vram_search.store import Outcome, Store, StudyRecord
from vram_search.worker.prepare import Prepared

COMPLETE: tuple[Outcome, ...] = ("complete",)


def source_tasks(store: Store, prepared: Prepared) -> Iterator[SourceTask]:
    """Yields the other studies of the database, newest first, and then the shipped runs.

    Runs with the study's own name are left out: a bench that searches a shipped data set learns
    from the others.
    """
    recorded = (_source_task(store, study) for study in store.studies())
    return (one for one in chain(recorded, shipped()) if one.name != prepared.study.study)


def _source_task(store: Store, study: StudyRecord) -> SourceTask:
    return SourceTask(study.name, study.model.get("hidden_size"), tuple(_trials(store, study)))


def _trials(store: Store, study: StudyRecord) -> Iterator[tuple[Hyperparameters, float]]:
    """Yields complete trials with all hyperparameters known; imported runs may lack some.

    Other kinds of training and other adapters than LoRA are left out: hyperparameters alone do not
    describe them.
    """
    for trial in store.trials(study.id, COMPLETE):
        is_plain_lora = not (trial.other_training or (trial.provenance or {}).get("adapter"))
        if trial.eval_loss is None or not is_plain_lora:
            continue
        try:
            yield Hyperparameters.model_validate(trial.hyperparameters), trial.eval_loss
        except ValidationError:
            continue
