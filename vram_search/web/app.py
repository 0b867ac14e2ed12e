"""Builds the application: endpoints, page, guard, errors, and the scheduler behind them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from vram_search import __version__
from vram_search.web import api_memory, api_queue, api_studies, api_system, api_trials, page
from vram_search.web.free_memory import give_back_memory
from vram_search.web.guard import Guard
from vram_search.web.problems import MEDIA_TYPE, add_handlers, describe_problems
from vram_search.web.scheduler import Scheduler
from vram_search.web.service import Service

STATIC = Path(__file__).parent / "static"
THREADS = 8
"""Requests that are answered at once. Each thread keeps memory and a connection to the database;
further requests wait."""
DESCRIPTION = """Queue, results and predictions of vram-search.

Sizes are bytes, times are seconds, losses are nats per answer token. Send the token as
`Authorization: Bearer TOKEN`. Errors are `application/problem+json` with a `remedy`.
"""
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"content": _PROBLEM, "description": words}
    for code, words in {
        400: "The body cannot be read.",
        401: "A login is needed, or the token is wrong.",
        403: "The login may only read, or the request comes from another web page.",
        404: "It does not exist.",
        409: "It is too late for this, or it exists already.",
        413: "The body is too large.",
        415: "The body is not JSON.",
        421: "The service is not known under this host name.",
        422: "The input is wrong; `remedy` says what to change.",
        429: "Too many failed logins; `Retry-After` says when to try again.",
        431: "The headers are too large.",
        503: "The database or the disk cannot be used now.",
    }.items()
}


def make_app(service: Service, hosts: Collection[str], scheduler: Scheduler | None) -> ASGIApp:
    """Builds the guarded application.

    Args:
        hosts: names under which the service may be reached.
        scheduler: runs the queue; None only shows it.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        if scheduler is not None:
            threading.Thread(target=scheduler.run, name="scheduler", daemon=True).start()
        freeing = asyncio.create_task(give_back_memory())
        yield
        freeing.cancel()
        app.state.is_ending = True
        if scheduler is not None:
            scheduler.stop()

    app = FastAPI(
        title="vram-search",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=ERRORS,
    )
    app.state.service, app.state.streams, app.state.is_ending = service, set(), False
    app.state.whole_study = asyncio.Lock()
    add_handlers(app, page.problem_page)
    for module in (api_studies, api_trials, api_queue, api_memory, api_system, page):
        app.include_router(module.router)
    app.include_router(page.study_router)
    describe_problems(app)
    app.mount("/static", StaticFiles(directory=STATIC), "static")
    return Guard(app, service.credentials, hosts, service.cookie, service.failures)
