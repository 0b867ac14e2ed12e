"""The page: server-rendered HTML, whose parts htmx replaces when the record changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool

from vram_search import __version__
from vram_search.answers.dry_run import dry_run
from vram_search.answers.estimate import estimate
from vram_search.answers.lookup import find_study, find_trial
from vram_search.answers.queue import add_study, queue_answer
from vram_search.answers.run import stop_rule
from vram_search.errors import VramSearchError
from vram_search.report.page.byte_charts import parts_chart
from vram_search.report.page.live_charts import live_curve_chart
from vram_search.report.words import hyperparameter_words, loss_cell, plan_words
from vram_search.search.study_constraints import best_trials
from vram_search.spec.card import card_names
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.spec.lora_targets import LORA_TARGET_SETS
from vram_search.spec.name_rule import NAME_PATTERN
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.shape import shape_names
from vram_search.tools import EXPORTED
from vram_search.units import counted, format_bytes, format_duration
from vram_search.web import view
from vram_search.web.api_endpoints import endpoints_by_tag
from vram_search.web.api_studies import known_study
from vram_search.web.guard import MOST_UPLOAD_BYTES, logged_in
from vram_search.web.new_study import study_text
from vram_search.web.one_at_a_time import OneAtATime
from vram_search.web.paths import checked_model, parse_study
from vram_search.web.problems import Problem
from vram_search.web.service import Service, role_of, service_of
from vram_search.worker.next_point import try_next
from vram_search.worker.prepare import prepare

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
study_router = APIRouter(
    include_in_schema=False, default_response_class=HTMLResponse, route_class=OneAtATime
)
Served = Annotated[Service, Depends(service_of)]
_STYLES = (
    *(Path(view.__file__).parents[1] / "report" / "page" / f for f in ("chart.css", "report.css")),
    Path(__file__).parent / "static" / "page.css",
)
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"bytes": format_bytes, "duration": format_duration, "loss": loss_cell}
_ENVIRONMENT.filters |= {"moment": view.moment_words, "counted": counted}


@router.get("/style.css")
def style() -> Response:
    """The report's styles and the page's own."""
    text = "".join(file.read_text(encoding="utf-8") for file in _STYLES)
    return Response(text, media_type="text/css", headers={"Cache-Control": "max-age=600"})


@router.get("/login")
def login_form(request: Request) -> HTMLResponse:
    """Asks for the token."""
    return _page(request, "login.html.j2", message="")


@router.post("/login")
async def login(request: Request, service: Served) -> Response:
    """Exchanges the token for a cookie."""
    address = request.client.host if request.client else ""
    if wait := service.failures.wait_seconds(address):
        words = f"Too many failed logins. Wait {wait} s."
        return _page(request, "login.html.j2", 429, {"Retry-After": str(wait)}, message=words)
    role = service.credentials.role_of((await _form(request)).get("token", ""))
    if role is None:
        service.failures.add(address)
        return _page(request, "login.html.j2", 401, message="The token is wrong.")
    return logged_in(service.credentials, service.cookie, role)


@router.post("/logout")
def logout(service: Served) -> Response:
    """Deletes the cookie."""
    response = Response(status_code=303, headers={"Location": "/login"})
    response.delete_cookie(service.cookie, path="/", httponly=True, samesite="strict")
    return response


@router.get("/")
def home(request: Request, service: Served) -> HTMLResponse:
    """Shows the running study, the queue, and all studies."""
    return _page(request, "home.html.j2", **_now(service), **_studies(service))


@router.get("/parts/{part}")
def home_part(
    request: Request, part: Literal["now", "queue", "studies"], service: Served
) -> HTMLResponse:
    """A part of the first page."""
    return _page(request, f"{part}.html.j2", **_PARTS[part](service))


@study_router.get("/studies/{study}")
def study(request: Request, study: str, service: Served) -> HTMLResponse:
    """A study: its best trials, charts and table."""
    record = find_study(service.store, known_study(service, study))
    table = view.trials_page(service.store, record, "", "number", 0)
    content = view.study_page(service.store, record)
    return _page(request, "study.html.j2", exported=EXPORTED, **{**table, **content})


@study_router.get("/studies/{study}/charts")
def charts(request: Request, study: str, service: Served) -> HTMLResponse:
    """The part of a study's page above the table; a message if the study was deleted."""
    try:
        record = find_study(service.store, known_study(service, study))
    except VramSearchError as error:
        return _page(request, "fault.html.j2", error=error)
    content = view.study_page(service.store, record)
    return _page(request, "study_charts.html.j2", exported=EXPORTED, **content)


@study_router.get("/studies/{study}/table")
def table(
    request: Request,
    study: str,
    service: Served,
    outcome: str = "",
    order: str = "number",
    page: int = 0,
) -> HTMLResponse:
    """One page of the table of trials; a message if the study was deleted."""
    try:
        record = find_study(service.store, known_study(service, study))
    except VramSearchError as error:
        return _page(request, "fault.html.j2", error=error)
    content = view.trials_page(service.store, record, outcome, order, page)
    return _page(request, "trials.html.j2", **content)


@study_router.get("/studies/{study}/trials/{trial}")
def trial(request: Request, study: str, trial: str, service: Served) -> HTMLResponse:
    """A trial: why it ended, its settings and losses."""
    name = known_study(service, study)
    shown, why = service.results.show(trial, name), service.results.why(trial, name)
    of_study = find_study(service.store, name)
    record = find_trial(service.store, of_study, trial)
    best = best_trials(service.store, of_study, limit=1)
    curve = live_curve_chart(
        record.number,
        [(step.step, step.loss) for step in shown.step_losses],
        [(one.step, one.eval_loss) for one in shown.evaluations],
        record.steps_total,
        service.store.step_losses(best[0].id) if best and best[0].id != record.id else [],
    )
    return _page(
        request,
        "trial.html.j2",
        shown=shown,
        trial=shown.trial,
        why=why,
        curve=curve,
        settings=hyperparameter_words(record.hyperparameters),
        plan=plan_words(record.plan),
        exported=EXPORTED,
        names=[dimension.name for dimension in DIMENSIONS],
    )


@study_router.get("/studies/{study}/compare")
def compare_trials(
    request: Request, study: str, service: Served, first: str = "", second: str = ""
) -> HTMLResponse:
    """Two trials side by side."""
    name = known_study(service, study)
    try:
        answer = service.results.compare(first, second, name)
    except VramSearchError as error:
        return _page(request, "fault.html.j2", error=error)
    return _page(request, "compared.html.j2", answer=answer, rows=view.compared_rows(answer))


@router.post("/studies/{study}/points")
async def add_point(request: Request, study: str, service: Served) -> HTMLResponse:
    """Lets the study try a trial with one value changed."""
    form = await _form(request)
    try:
        record = find_study(service.store, known_study(service, study))
        like = find_trial(service.store, record, form.get("like", ""))
        values = {form.get("name", ""): _value(form.get("value", ""))}
        point = await run_in_threadpool(try_next, service.store, service.url, record, values, like)
    except VramSearchError as error:
        return _page(request, "fault.html.j2", error=error)
    words = hyperparameter_words(point.model_dump(mode="json"))
    return _page(request, "point_added.html.j2", words=words)


@router.get("/api")
def api(request: Request) -> HTMLResponse:
    """The endpoints of the REST API with their inputs."""
    tags = endpoints_by_tag(request.app.openapi())
    return _page(request, "api.html.j2", tags=tags, address=str(request.base_url))


@router.get("/estimate")
def estimate_form(request: Request) -> HTMLResponse:
    """The form of "will it fit?"."""
    return _page(
        request,
        "estimate.html.j2",
        models=shape_names(),
        cards=card_names(),
        optimizers=list(OPTIMIZERS),
        targets=list(LORA_TARGET_SETS),
    )


@router.get("/estimate/answer")
def estimate_answer(request: Request, service: Served) -> HTMLResponse:
    """The answer to the form, as a part of the page."""
    form = dict(request.query_params)
    target = form.get("lora_target", "all")
    try:
        if target not in LORA_TARGET_SETS:
            raise VramSearchError(
                f"lora_target {target[:100]!r} is not in the list",
                "`vram-search estimate --lora-target` takes names and expressions",
            )
        answer = estimate(
            checked_model(form.get("model", ""), service.folders),
            form.get("card", ""),
            lora_rank=_whole(form, "lora_rank", 8),
            lora_target=target,
            cutoff_len=_whole(form, "cutoff_len", 1024),
            batch=_whole(form, "batch", 1),
            optim=form.get("optim", "adamw_8bit"),
            checkpointing="checkpointing" in form,
            liger="liger" in form,
        )
    except VramSearchError as error:
        return _page(request, "fault.html.j2", error=error)
    plan = answer.plan
    limit = plan.total_bytes - plan.reserve_bytes
    chart = parts_chart("parts", "Predicted bytes", [(plan.name, plan.parts)], limit, "", math.inf)
    return _page(request, "estimate_answer.html.j2", plan=plan, chart=chart)


@router.get("/new")
def new_form(request: Request, service: Served) -> HTMLResponse:
    """The form of a new study."""
    return _page(
        request,
        "new.html.j2",
        models=shape_names(),
        cards=card_names(),
        name_pattern=NAME_PATTERN.strip("^$"),
        folders=[str(folder) for folder in service.folders],
        most_bytes=MOST_UPLOAD_BYTES,
    )


@router.post("/new/{step}")
async def new_study(
    request: Request, step: Literal["write", "plan", "add"], service: Served
) -> Response:
    """A step of the form: the study file is written, planned, or added to the queue."""
    form = await _form(request)
    try:
        if step == "write":
            return _page(request, "new_file.html.j2", text=study_text(form), planned=None)
        study = parse_study(form.get("study_file", ""), service.folders)
        if step == "plan":
            study = study.model_copy(update={"database": service.url})
            prepared = await run_in_threadpool(prepare, study, lambda note: None)
            answer = await run_in_threadpool(dry_run, prepared, stop_rule(study, None))
            words = [hyperparameter_words(one.hyperparameters) for one in answer.priors]
            return _page(
                request, "planned.html.j2", answer=answer, words=words, card=study.card.label
            )
        await run_in_threadpool(add_study, service.store, study)
    except VramSearchError as error:
        return _page(request, "fault.html.j2", error=error)
    return Response(status_code=204, headers={"HX-Redirect": "/"})


def _now(service: Service) -> dict[str, Any]:
    queue = queue_answer(service.store, service.url)
    now = [view.running(service.store, entry) for entry in view.one_of_each(queue.entries)]
    night = None if now else view.latest_night(service.store)
    return {"queue": queue, "now": now, "night": night}


def _queue(service: Service) -> dict[str, Any]:
    return {"queue": queue_answer(service.store, service.url)}


def _studies(service: Service) -> dict[str, Any]:
    return {"studies": service.results.studies()}


_PARTS: Mapping[str, Callable[[Service], dict[str, Any]]] = {
    "now": _now,
    "queue": _queue,
    "studies": _studies,
}


def _page(
    request: Request,
    template: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **content: Any,
) -> HTMLResponse:
    text = _ENVIRONMENT.get_template(template).render(
        **content, version=__version__, role=role_of(request), path=request.url.path
    )
    return HTMLResponse(text, status, headers)


def problem_page(request: Request, problem: Problem) -> HTMLResponse:
    """An error as a page, for a person who opened an address."""
    error = VramSearchError(problem.detail, problem.remedy)
    return _page(request, "problem.html.j2", problem.status, title=problem.title, error=error)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; of a repeated one the last."""
    body = (await request.body()).decode("utf-8", errors="replace")
    return {name: values[-1] for name, values in parse_qs(body, keep_blank_values=True).items()}


def _value(text: str) -> int | float | str:
    """A value of a hyperparameter: a number if it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()


def _whole(form: Mapping[str, str], name: str, default: int) -> int:
    """A whole number of a form.

    Raises:
        VramSearchError: the text is not a whole number.
    """
    text = form.get(name, "") or str(default)
    if not text.strip().isdecimal() or len(text) > len(str(2**31)):
        raise VramSearchError(f"{name} {text[:20]!r} is not a whole number", "write it like 1024")
    return int(text)
