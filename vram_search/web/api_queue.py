"""REST endpoints of the queue."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from vram_search.answers.queue import QueueAnswer, QueueEntryAnswer, entry_answer, queue_answer
from vram_search.spec.limits import MOST_HOURS
from vram_search.store.queue import OPEN_STATES, STATES
from vram_search.web.request_fields import Moment, Number, Whole
from vram_search.web.service import Service, as_json, service_of

router = APIRouter(prefix="/api/v1/queue", tags=["queue"])
Served = Annotated[Service, Depends(service_of)]


class EntryChange(BaseModel):
    """New limits of an entry that has not started; keys that are left out stay."""

    model_config = ConfigDict(extra="forbid")
    trials: Whole | None = Field(default=None, ge=1)
    not_before: Moment | None = None
    until: Moment | None = None
    hours: Number | None = Field(default=None, gt=0, le=MOST_HOURS)


@router.get("", response_model=QueueAnswer)
def show_queue(
    service: Served, ended: Annotated[bool, Query(description="Ended studies, too.")] = False
) -> JSONResponse:
    """Lists running and waiting studies in the order in which they run."""
    return as_json(queue_answer(service.store, service.url, STATES if ended else OPEN_STATES))


@router.get("/{entry}", response_model=QueueEntryAnswer)
def get_entry(entry: int, service: Served) -> JSONResponse:
    """Returns one entry."""
    return as_json(entry_answer(service.queue.entry(entry)))


@router.patch("/{entry}", response_model=QueueEntryAnswer)
def change_entry(entry: int, change: EntryChange, service: Served) -> JSONResponse:
    """Changes the limits of an entry that has not started."""
    values = {name: getattr(change, name) for name in change.model_fields_set}
    return as_json(entry_answer(service.queue.change(entry, **values)))


@router.post("/{entry}/move", response_model=QueueAnswer)
def move_entry(entry: int, place: Annotated[int, Query(ge=1)], service: Served) -> JSONResponse:
    """Moves an entry to a place among those that wait; 1 is next."""
    service.queue.move(entry, place)
    return as_json(queue_answer(service.store, service.url))


@router.post("/{entry}/pause", response_model=QueueEntryAnswer)
def pause_entry(entry: int, service: Served) -> JSONResponse:
    """Starts no new trials until the study is resumed; its running trial finishes."""
    return as_json(entry_answer(service.queue.ask(entry, "pause")))


@router.post("/{entry}/stop", response_model=QueueEntryAnswer)
def stop_entry(entry: int, service: Served) -> JSONResponse:
    """Ends a study after its running trial."""
    return as_json(entry_answer(service.queue.ask(entry, "stop")))


@router.post("/{entry}/cancel", response_model=QueueEntryAnswer)
def cancel_entry(entry: int, service: Served) -> JSONResponse:
    """Takes a study out of the queue; a running one ends at once."""
    return as_json(entry_answer(service.queue.ask(entry, "cancel")))


@router.post("/{entry}/resume", response_model=QueueEntryAnswer)
def resume_entry(entry: int, service: Served) -> JSONResponse:
    """Queues a paused study again, at its place."""
    return as_json(entry_answer(service.queue.resume(entry)))
