"""REST endpoints of studies: create, validate, plan, list, control, delete."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from vram_search.answers.dry_run import DryRunAnswer, dry_run
from vram_search.answers.lookup import find_study
from vram_search.answers.queue import QueueEntryAnswer, add_study, entry_answer
from vram_search.answers.run import stop_rule
from vram_search.answers.studies import StudySummary
from vram_search.errors import InputError, NotFoundError, TooLateError
from vram_search.spec import StudySpec
from vram_search.spec.limits import MOST_HOURS
from vram_search.store.location import study_folder
from vram_search.store.queue import OPEN_STATES, QueueEntry, Request, plain_limits
from vram_search.web.paths import parse_study
from vram_search.web.request_fields import Moment, Number, Whole
from vram_search.web.scheduler import last_lines, output_file
from vram_search.web.service import Service, as_json, service_of
from vram_search.worker.delete_study import delete_study
from vram_search.worker.prepare import prepare

router = APIRouter(prefix="/api/v1/studies", tags=["studies"])
Served = Annotated[Service, Depends(service_of)]
Lines = Annotated[int, Field(ge=1, le=2000)]
SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)
"""The report carries its script in itself. Sandboxed, it has no origin and no cookie."""


class StudyText(BaseModel):
    """A study as text."""

    model_config = ConfigDict(extra="forbid")
    study_file: str = Field(description="The study file as YAML, as in docs/study-file.md.")


class NewStudy(StudyText):
    """A study for the queue."""

    trials: Whole | None = Field(default=None, ge=1, description="Stop at so many finished trials.")
    not_before: Moment | None = None
    until: Moment | None = None
    hours: Number | None = Field(
        default=None,
        gt=0,
        le=MOST_HOURS,
        description="Stop so many hours after the start of its run.",
    )
    paused: bool = Field(default=False, description="Wait until it is resumed.")
    accept_changes: bool = False


class ValidStudy(BaseModel):
    """A study that was checked."""

    study: dict[str, Any] = Field(description="The study with all defaults.")


@router.get("", response_model=list[StudySummary])
def list_studies(service: Served) -> JSONResponse:
    """Lists the recorded studies, newest activity first."""
    return JSONResponse([summary.as_dict() for summary in service.results.studies()])


@router.post("", status_code=201, response_model=QueueEntryAnswer)
def create_study(
    new: NewStudy,
    service: Served,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> JSONResponse:
    """Validates a study and adds it to the queue.

    With an `Idempotency-Key` a repeated request returns the entry of the first one.
    """
    study = parse_study(new.study_file, service.folders)
    limits: dict[str, Any] = {
        "state": "paused" if new.paused else "queued",
        **new.model_dump(exclude={"study_file", "paused"}),
    }
    if known := _entry_of(idempotency_key, service, study, limits):
        return as_json(entry_answer(known), 200)
    try:
        entry = add_study(service.store, study, **limits, idempotency_key=idempotency_key)
    except TooLateError:  # perhaps by the same request, at the same time
        if known := _entry_of(idempotency_key, service, study, limits):
            return as_json(entry_answer(known), 200)
        raise
    return as_json(entry_answer(entry), 201)


@router.post("/validate", response_model=ValidStudy)
def validate_study(text: StudyText, service: Served) -> ValidStudy:
    """Checks a study, and returns it with all defaults. All faults are reported at once."""
    study = parse_study(text.study_file, service.folders)
    return ValidStudy(study=study.model_dump(mode="json"))


@router.post("/plan", response_model=DryRunAnswer)
def plan_study(text: StudyText, service: Served) -> JSONResponse:
    """Plans a study's first configurations with predicted bytes, as `run --dry-run` does."""
    study = parse_study(text.study_file, service.folders)
    study = study.model_copy(update={"database": service.url})
    prepared = prepare(study, lambda note: None)
    answer = dry_run(prepared, stop_rule(study, None)).as_dict()
    answer["study"]["database"] = None  # its URL may hold a password
    return JSONResponse(answer)


@router.get("/{study}", response_model=StudySummary)
def get_study(study: str, service: Served) -> JSONResponse:
    """Returns one recorded study."""
    for one in service.results.studies():
        if one.study == study:
            return as_json(one)
    raise unknown_study(service, study)


@router.delete("/{study}", status_code=204)
def remove_study(study: str, confirm: str, service: Served) -> Response:
    """Deletes a study with its trials and adapters. `confirm` repeats its name."""
    name = known_study(service, study)
    if confirm != name:
        raise InputError(f"confirm is {confirm!r}, not {name!r}", "repeat the study's name")
    delete_study(service.store, service.url, name)
    return Response(status_code=204)


@router.post("/{study}/pause", response_model=QueueEntryAnswer)
def pause_study(study: str, service: Served) -> JSONResponse:
    """Starts no new trials until the study is resumed; its running trials finish."""
    return _asked(service, study, "pause")


@router.post("/{study}/stop", response_model=QueueEntryAnswer)
def stop_study(study: str, service: Served) -> JSONResponse:
    """Ends a study after its running trials."""
    return _asked(service, study, "stop")


@router.post("/{study}/cancel", response_model=QueueEntryAnswer)
def cancel_study(study: str, service: Served) -> JSONResponse:
    """Ends a study at once; its running trials are lost."""
    return _asked(service, study, "cancel")


@router.post("/{study}/resume", response_model=QueueEntryAnswer)
def resume_study(study: str, service: Served) -> JSONResponse:
    """Queues a paused study again."""
    return as_json(entry_answer(service.queue.resume(_open_entries(service, study)[0].id)))


@router.get("/{study}/log", response_class=PlainTextResponse)
def study_log(study: str, service: Served, lines: Lines = 200) -> PlainTextResponse:
    """The last lines of the training process's log, and before them those of the latest run."""
    entry = service.queue.latest_of(study)
    found = [] if entry is None else last_lines(output_file(service.url, entry.id), lines)
    if service.store.study(study) is not None:
        found += last_lines(study_folder(service.url, study).log, lines)
    elif entry is None:
        known_study(service, study)
    return PlainTextResponse("\n".join(found[-lines:]) + "\n")


@router.get("/{study}/report", response_class=HTMLResponse)
def report(study: str, service: Served) -> HTMLResponse:
    """The HTML report of a study, as `vram-search report` writes it."""
    from datetime import UTC, datetime

    from vram_search.report.page.html import render
    from vram_search.report.page.report_data import load_report_data

    record = find_study(service.store, known_study(service, study))
    page = render(load_report_data(service.store, record), datetime.now(UTC))
    return HTMLResponse(page, headers={"Content-Security-Policy": SANDBOX})


def known_study(service: Service, name: str) -> str:
    """Returns the name of a recorded study; unlike `find_study` it reads no file of that name.

    Raises:
        NotFoundError: no study has that name.
    """
    if service.store.study(name) is None:
        raise unknown_study(service, name)
    return name


def unknown_study(service: Service, name: str) -> NotFoundError:
    """The error that no study has that name."""
    known = ", ".join(study.name for study in service.store.studies()) or "none"
    return NotFoundError(f"no study {name!r} in the database", f"there are: {known}")


def _open_entries(service: Service, study: str) -> list[QueueEntry]:
    """The entries of a study that have not ended; first the one that stands for the study: the
    running one of the service, or else another running one.

    Raises:
        NotFoundError: no study has that name.
        TooLateError: the study is not in the queue.
    """
    entries = [e for e in service.queue.entries(OPEN_STATES) if e.study == study]
    if not entries:
        if service.queue.latest_of(study) is None:
            known_study(service, study)
        raise TooLateError(f"study {study} is not in the queue", "add it to the queue first")
    return sorted(entries, key=lambda entry: (entry.state != "running", not entry.is_detached))


def _asked(service: Service, study: str, request: Request) -> JSONResponse:
    """Asks the study and its further workers. These have no place to come back to after a pause, so
    that they end after their trial."""
    first, *others = _open_entries(service, study)
    entry = service.queue.ask(first.id, request)
    for other in others:
        with contextlib.suppress(TooLateError):  # it has ended meanwhile
            service.queue.ask(other.id, "stop" if request == "pause" else request)
    return as_json(entry_answer(entry))


def _entry_of(
    key: str | None, service: Service, study: StudySpec, limits: dict[str, Any]
) -> QueueEntry | None:
    """The entry that an earlier request with this Idempotency-Key has added.

    Raises:
        TooLateError: the key was used for another study, or with other limits.
    """
    from vram_search.worker.queue_place import study_yaml

    known = None if key is None else service.queue.with_key(key)
    if known is None:
        return None
    if known.study_file != study_yaml(study):
        raise TooLateError(
            f"this Idempotency-Key was used for another request (entry {known.id})",
            "use a new key for a new study",
        )
    first = service.queue.first_limits(known)
    if first is not None and first != plain_limits(**limits):
        raise TooLateError(
            f"this Idempotency-Key was used with other limits (entry {known.id})",
            f"change the entry: PATCH /api/v1/queue/{known.id}; or use a new key",
        )
    return known
