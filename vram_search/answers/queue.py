"""Answers `queue`: what runs, what runs next; and adds studies to the queue."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from pydantic import Field

from vram_search.answers.base import Answer, AnswerPart, Timestamp
from vram_search.spec import StudySpec
from vram_search.store import Store
from vram_search.store.queue import OPEN_STATES, QueueEntry, QueueState, Request, StudyQueue
from vram_search.worker.queue_place import service_is_alive, study_yaml, sweep


class QueueEntryAnswer(AnswerPart):
    """A study's place in the queue."""

    id: int
    study: str
    place: int | None = Field(description="1 is next; null unless the study waits.")
    state: QueueState
    request: Request | None = Field(
        description="What a running study was asked to do: pause and stop let its running trial "
        "finish, cancel ends it at once."
    )
    is_detached: bool = Field(
        description="True if the service runs it; false if a `vram-search run` waits for its turn."
    )
    trials: int | None = Field(description="Stop at so many finished trials.")
    not_before: Timestamp | None
    until: Timestamp | None
    hours: float | None = Field(description="Stop so many hours after the start of its run.")
    attempts: int = Field(description="How often the service has started it.")
    host: str | None = Field(description="The machine that runs it.")
    device: str | None = Field(description="UUID of the GPU, or `cpu`.")
    card_bytes: int | None = Field(
        description="Bytes of the card that it takes at most, predicted; others that fit beside it "
        "may run. null: the whole card, or not known until it runs."
    )
    pid: int | None
    created_at: Timestamp
    started_at: Timestamp | None
    ended_at: Timestamp | None
    message: str | None = Field(description="Why it ended.")
    remedy: str | None


class QueueAnswer(Answer):
    """The queue of a database."""

    service_is_running: bool = Field(
        description="True if a service of this machine runs the studies of the queue."
    )
    entries: list[QueueEntryAnswer] = Field(description="In the order in which they run.")


def queue_answer(
    store: Store, url: str, states: Collection[QueueState] = OPEN_STATES
) -> QueueAnswer:
    """Lists the queue's entries in these states, after correcting those whose process died."""
    queue = StudyQueue(store.engine)
    sweep(queue, url)
    entries = queue.entries(states)
    waiting = [entry.id for entry in entries if entry.state == "queued"]
    return QueueAnswer(
        service_is_running=service_is_alive(url),
        entries=[
            entry_answer(entry, waiting.index(entry.id) + 1 if entry.id in waiting else None)
            for entry in entries
        ],
    )


def entry_answer(entry: QueueEntry, place: int | None = None) -> QueueEntryAnswer:
    """Builds the answer about one entry."""
    names = set(QueueEntryAnswer.model_fields) - {"place"}
    return QueueEntryAnswer(place=place, **{name: getattr(entry, name) for name in names})


def add_study(
    store: Store,
    study: StudySpec,
    *,
    state: QueueState = "queued",
    trials: int | None = None,
    not_before: datetime | None = None,
    until: datetime | None = None,
    hours: float | None = None,
    accept_changes: bool = False,
    idempotency_key: str | None = None,
) -> QueueEntry:
    """Adds a study at the end of the queue; the service runs it.

    Raises:
        TooLateError: the service has this study in the queue already.
    """
    return StudyQueue(store.engine).add(
        study.study,
        study_yaml(study),
        is_detached=True,
        state=state,
        trials=trials,
        not_before=not_before and not_before.astimezone(UTC),
        until=until and until.astimezone(UTC),
        hours=hours,
        accept_changes=accept_changes,
        idempotency_key=idempotency_key,
    )
