"""REST endpoints of the service itself: health, version, metrics and live events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from vram_search import __version__
from vram_search.gpu import GpuReadError, open_reader
from vram_search.store import Store
from vram_search.store.events import EventRecord, events_after, last_event_id
from vram_search.store.progress import progress_of
from vram_search.store.queue import STATES, QueueState, StudyQueue
from vram_search.web.problems import problem
from vram_search.web.service import Service, service_of

router = APIRouter(prefix="/api/v1", tags=["service"])
Served = Annotated[Service, Depends(service_of)]
RUNNING: tuple[QueueState, ...] = ("running",)
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
MOST_STREAMS = 64
"""Open event streams; further ones are refused."""


class Health(BaseModel):
    """The service answers and can read its database."""

    status: str


class Version(BaseModel):
    """Version of vram-search."""

    version: str


@router.get("/health", response_model=Health)
def health(service: Served) -> Health:
    """Answers without a login."""
    last_event_id(service.store.engine)
    return Health(status="ok")


@router.get("/version", response_model=Version)
def version() -> Version:
    """The version of vram-search."""
    return Version(version=__version__)


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(service: Served) -> PlainTextResponse:
    """Metrics as Prometheus reads them."""
    lines = ["# TYPE vram_search_queue_entries gauge"]
    entries = StudyQueue(service.store.engine).entries(STATES)
    for state in STATES:
        count = sum(entry.state == state for entry in entries)
        lines.append(_sample("vram_search_queue_entries", count, state=state))
    studies = service.results.studies()
    lines.append("# TYPE vram_search_trials gauge")
    for study in studies:
        for outcome, count in study.outcomes.items():
            lines.append(_sample("vram_search_trials", count, study=study.study, outcome=outcome))
    lines.append("# TYPE vram_search_best_eval_loss gauge")
    lines += [
        _sample("vram_search_best_eval_loss", study.best_eval_loss, study=study.study)
        for study in studies
        if study.best_eval_loss is not None
    ]
    lines += _gpu_metrics()
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


@router.get("/events", response_class=StreamingResponse)
async def events(
    request: Request,
    service: Served,
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
    after: int | None = None,
) -> Any:
    """Server-sent events of the record, from now on, or after `Last-Event-ID` (or `after`).

    Every event has an id. `progress` of a running trial has none and is not repeated.
    """
    streams = request.app.state.streams
    if len(streams) >= MOST_STREAMS:
        return problem(503, f"{MOST_STREAMS} event streams are open", "close a page")
    start = last_event_id if last_event_id is not None else after
    newest = await run_in_threadpool(_last_id, service.store)
    stream = _stream(request, service.store, _first_after(start, newest))
    return StreamingResponse(
        stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


def _first_after(asked: int | None, newest: int) -> int:
    """The id after which events are sent.

    A reader that has seen a later copy of the database gets the events from now on.
    """
    return newest if asked is None else min(asked, newest)


async def _stream(request: Request, store: Store, last_id: int) -> AsyncIterator[str]:
    """Events as text, until the reader leaves or the service ends."""
    streams, own = request.app.state.streams, object()
    streams.add(own)
    try:
        seen: dict[str, Any] = {}
        sent_at = time.monotonic()
        yield "retry: 2000\n\n"
        while not request.app.state.is_ending and not await request.is_disconnected():
            if found := await run_in_threadpool(events_after, store.engine, last_id):
                last_id, sent_at = found[-1].id, time.monotonic()
                # In one piece: nothing more is written to a reader that has left meanwhile.
                yield "".join(map(_event_text, found))
            for study, progress in await run_in_threadpool(_running, store):
                if seen.get(study) != progress["updated_at"]:
                    seen[study], sent_at = progress["updated_at"], time.monotonic()
                    yield f"event: progress\ndata: {json.dumps(progress)}\n\n"
            if time.monotonic() - sent_at > HEARTBEAT_SECONDS:
                sent_at = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(POLL_SECONDS)
    finally:
        streams.discard(own)


def _last_id(store: Store) -> int:
    return last_event_id(store.engine)


def _event_text(event: EventRecord) -> str:
    data = {
        "id": event.id,
        "at": event.at.isoformat(),
        "kind": event.kind,
        "study": event.study,
        "trial": event.trial,
        "data": event.data,
    }
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(data)}\n\n"


def _running(store: Store) -> list[tuple[str, dict[str, Any]]]:
    """The progress of running trials, by study."""
    found = []
    for entry in StudyQueue(store.engine).entries(RUNNING):
        record = store.study(entry.study)
        for trial in store.running_trials(record.id) if record is not None else ():
            if (progress := progress_of(store.engine, trial.id)) is not None:
                state = {
                    "study": entry.study,
                    "trial": trial.number,
                    "stage": progress.stage,
                    "step": progress.step,
                    "steps_total": progress.steps_total,
                    "updated_at": progress.updated_at and progress.updated_at.isoformat(),
                }
                found.append((entry.study, state))
    return found


def _gpu_metrics() -> list[str]:
    reader = open_reader()
    if reader is None:
        return []
    try:
        sample = reader.sample(None)
    except GpuReadError:
        return []
    device = reader.device()
    return [
        "# TYPE vram_search_gpu_used_bytes gauge",
        _sample("vram_search_gpu_used_bytes", sample.device_bytes, gpu=device.name),
        "# TYPE vram_search_gpu_total_bytes gauge",
        _sample("vram_search_gpu_total_bytes", device.total_bytes, gpu=device.name),
    ]


def _sample(name: str, value: float, **labels: str) -> str:
    shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{shown}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
