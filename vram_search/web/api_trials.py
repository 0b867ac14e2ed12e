"""REST endpoints of trials and of the questions about a study."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from vram_search.answers.best import BestAnswer
from vram_search.answers.compare import CompareAnswer
from vram_search.answers.importance import ImportanceAnswer
from vram_search.answers.lookup import find_study, find_trial
from vram_search.answers.pareto import ParetoAnswer
from vram_search.answers.show import ShowAnswer
from vram_search.answers.top import TopAnswer, these_trials
from vram_search.answers.why import WhyAnswer
from vram_search.api import ExportTarget
from vram_search.export.recorded import write_recorded
from vram_search.store import Outcome
from vram_search.store.location import StudyFolder
from vram_search.store.progress import progress_of
from vram_search.store.run_logs import entries_of, log_files
from vram_search.store.skips import ask_to_skip
from vram_search.web.api_studies import known_study
from vram_search.web.one_at_a_time import OneAtATime
from vram_search.web.request_fields import PointValue
from vram_search.web.service import Service, as_json, service_of, temporary_folder
from vram_search.web.trial_selection import select_trials
from vram_search.worker.next_point import try_next

router = APIRouter(prefix="/api/v1/studies/{study}", tags=["trials"], route_class=OneAtATime)
Served = Annotated[Service, Depends(service_of)]


class NewPoint(BaseModel):
    """A point that the study tries next."""

    model_config = ConfigDict(extra="forbid")
    values: dict[str, PointValue] = Field(
        description="Hyperparameters by name, as in a study file."
    )
    like: str = Field(default="best", description="The trial whose other values it takes.")


class PointAnswer(BaseModel):
    """The point with all of its values."""

    study: str
    hyperparameters: dict[str, Any]


class SkipAnswer(BaseModel):
    """A running trial that will end at its next evaluation."""

    study: str
    number: int


class CurveAnswer(BaseModel):
    """The losses of a trial, also while it runs."""

    number: int
    outcome: Outcome | None
    stage: str | None
    step: int
    steps_total: int
    losses: list[tuple[int, float | None]] = Field(
        description="Pairs of optimizer step and training loss, in nats per token."
    )
    evaluations: list[tuple[int, float | None]] = Field(
        description="Pairs of optimizer step and eval_loss."
    )
    allocated_bytes: int | None = Field(description="Of a running trial, at its latest step.")
    process_bytes: int | None = Field(description="Of a running trial, as NVML reads it.")


@router.get("/trials", response_model=TopAnswer)
def list_trials(
    study: str,
    service: Served,
    outcome: Annotated[list[Outcome | Literal["running"]] | None, Query()] = None,
    order: Literal["number", "eval_loss"] = "number",
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JSONResponse:
    """Lists trials, in pages. The header `X-Total-Count` holds their number without pages."""
    record = find_study(service.store, known_study(service, study))
    found = select_trials(
        service.store, record, outcomes=outcome or (), order=order, offset=offset, limit=limit
    )
    response = as_json(these_trials(service.store, record, found.trials))
    response.headers["X-Total-Count"] = str(found.count)
    return response


@router.get("/trials/{trial}", response_model=ShowAnswer)
def show_trial(study: str, trial: str, service: Served) -> JSONResponse:
    """Everything that is recorded about a trial: its number, or `best`."""
    return as_json(service.results.show(trial, known_study(service, study)))


@router.get("/trials/{trial}/curve", response_model=CurveAnswer)
def trial_curve(study: str, trial: str, service: Served) -> CurveAnswer:
    """The losses of a trial; of a running one, those up to a few seconds ago."""
    store = service.store
    record = find_trial(store, find_study(store, known_study(service, study)), trial)
    live = progress_of(store.engine, record.id)
    steps = live.losses if live else [(s.step, s.loss) for s in store.step_losses(record.id)]
    evaluations = (
        live.evaluations if live else [(e.step, e.eval_loss) for e in store.evaluations(record.id)]
    )
    return CurveAnswer(
        number=record.number,
        outcome=record.outcome,
        stage=live.stage if live else record.stage,
        step=live.step if live else record.steps_done,
        steps_total=live.steps_total if live else record.steps_total,
        losses=[(step, loss) for step, loss in steps],
        evaluations=[(step, loss) for step, loss in evaluations],
        allocated_bytes=live.allocated_bytes if live else None,
        process_bytes=live.process_bytes if live else None,
    )


@router.get("/trials/{trial}/why", response_model=WhyAnswer)
def why_trial(study: str, trial: str, service: Served) -> JSONResponse:
    """Explains why a trial ended as it did."""
    return as_json(service.results.why(trial, known_study(service, study)))


@router.get("/trials/{trial}/export", response_class=Response)
def export_trial(
    study: str,
    trial: str,
    service: Served,
    to: ExportTarget = "llama-factory",
    template: str | None = None,
) -> Response:
    """A trial as files for the tool that trains it, in a zip."""
    store = service.store
    record = find_study(store, known_study(service, study))
    found = find_trial(store, record, trial)
    with temporary_folder() as folder:
        write_recorded(record, found, folder, to=to, template=template)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                archive.write(file, file.relative_to(folder).as_posix())
    name = f"{record.name}-trial-{found.number}-{to}.zip"
    return Response(
        packed.getvalue(),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{_ascii(name)}"'},
    )


@router.get("/trials/{trial}/logs", response_class=PlainTextResponse)
def trial_logs(study: str, trial: str, service: Served) -> PlainTextResponse:
    """Everything that the logs of all runs hold of a trial, as `vram-search logs N` prints it."""
    record = find_study(service.store, known_study(service, study))
    number = find_trial(service.store, record, trial).number
    files = log_files(StudyFolder(service.store.files, record.name).logs)
    lines = [
        f"{entry.get('at')} {entry['text']}"
        for entry in entries_of(files)
        if entry.get("trial") == number
    ]
    return PlainTextResponse("".join(f"{line}\n" for line in lines))


@router.post("/trials/{trial}/skip", status_code=202, response_model=SkipAnswer)
def skip_trial(study: str, trial: str, service: Served) -> SkipAnswer:
    """Ends a running trial at its next evaluation, as pruned; it is not trained again."""
    record = find_study(service.store, known_study(service, study))
    found = find_trial(service.store, record, trial)
    ask_to_skip(service.store.engine, record.name, found)
    return SkipAnswer(study=record.name, number=found.number)


@router.post("/points", status_code=201, response_model=PointAnswer)
def add_point(study: str, new: NewPoint, service: Served) -> PointAnswer:
    """Puts a point in front of what the search proposes, also while it runs."""
    record = find_study(service.store, known_study(service, study))
    trial = find_trial(service.store, record, new.like)
    point = try_next(service.store, service.url, record, new.values, trial)
    return PointAnswer(study=record.name, hyperparameters=point.model_dump(mode="json"))


@router.get("/best", response_model=BestAnswer)
def best(
    study: str,
    service: Served,
    card: str | None = None,
    limit: str | None = None,
    time_limit: str | None = None,
) -> JSONResponse:
    """The complete trial with the lowest eval_loss, and the sweet spot."""
    name = known_study(service, study)
    return as_json(service.results.best(name, card=card, limit=limit, time_limit=time_limit))


@router.get("/pareto", response_model=ParetoAnswer)
def pareto(study: str, service: Served) -> JSONResponse:
    """The complete trials by required bytes; those on the Pareto front are marked."""
    return as_json(service.results.pareto(known_study(service, study)))


@router.get("/importance", response_model=ImportanceAnswer)
def importance(study: str, service: Served) -> JSONResponse:
    """The share of the spread of eval_loss that each hyperparameter explains by itself."""
    return as_json(service.results.importance(known_study(service, study)))


@router.get("/compare", response_model=CompareAnswer)
def compare(study: str, first: str, second: str, service: Served) -> JSONResponse:
    """Compares two trials; every difference is second minus first."""
    return as_json(service.results.compare(first, second, known_study(service, study)))


def _ascii(name: str) -> str:
    """A name for a header: letters, digits, '-', '_' and '.' stay."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)
