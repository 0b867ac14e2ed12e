"""Errors as problem+json (RFC 9457), with the message and the remedy of the command line."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from vram_search.errors import (
    FaultyFileError,
    InputError,
    NotFoundError,
    NothingStoredError,
    StoreError,
    TooLateError,
    VramSearchError,
    system_remedy,
)

MEDIA_TYPE = "application/problem+json"


class FaultAnswer(BaseModel):
    """One thing wrong in a study or a request."""

    path: str
    message: str
    allowed: str = ""


class Problem(BaseModel):
    """An error: what happened, and what to do next."""

    type: str = "about:blank"
    title: str = Field(description="The HTTP status in words.")
    status: int
    detail: str = Field(description="What happened, as the command line says it.")
    remedy: str = Field(default="", description="What to do next.")
    faults: list[FaultAnswer] = Field(default=[], description="All faults of a study file.")


def problem(
    status: int,
    detail: str,
    remedy: str = "",
    faults: list[FaultAnswer] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Builds the response of an error."""
    body = _problem(status, detail, remedy, faults).model_dump()
    return JSONResponse(body, status, headers=headers, media_type=MEDIA_TYPE)


def _problem(
    status: int, detail: str, remedy: str, faults: list[FaultAnswer] | None = None
) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(title=title, status=status, detail=detail, remedy=remedy, faults=faults or [])


def _is_page(request: Request) -> bool:
    """True if a browser opens a page; htmx and scripts read problem+json."""
    return (
        "text/html" in request.headers.get("accept", "")
        and "hx-request" not in request.headers
        and not request.url.path.startswith("/api/")
    )


def status_of(error: VramSearchError) -> int:
    """The HTTP status of one of our errors."""
    if isinstance(error, NotFoundError | NothingStoredError):
        return 404
    if isinstance(error, TooLateError):
        return 409
    if isinstance(error, StoreError):
        return 503
    return 422 if isinstance(error, InputError) else 500


def add_handlers(app: FastAPI, as_page: Callable[[Request, Problem], Response]) -> None:
    """Turns every error of the application into problem+json; a person who opens a page that
    does not exist gets a page.

    Args:
        as_page: shows an error as a page.
    """

    def answer(
        request: Request,
        status: int,
        detail: str,
        remedy: str = "",
        faults: list[FaultAnswer] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Response:
        if _is_page(request):
            return as_page(request, _problem(status, detail, remedy))
        return problem(status, detail, remedy, faults, headers)

    @app.exception_handler(VramSearchError)
    def ours(request: Request, error: VramSearchError) -> Response:
        faults = error.faults if isinstance(error, FaultyFileError) else []
        return answer(
            request,
            status_of(error),
            error.message,
            error.remedy,
            [FaultAnswer(path=f.path, message=f.message, allowed=f.allowed) for f in faults],
        )

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        faults = [_fault(one) for one in error.errors()]
        words = "; ".join(f"{fault.path}: {fault.message}" for fault in faults)
        return answer(
            request, 422, f"the request is not valid: {words}", "see /openapi.json", faults
        )

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        said, headers = str(error.detail), dict(error.headers or {})
        remedy = getattr(error, "remedy", "")
        path = request.url.path[:200]
        if error.status_code == 400:
            said, remedy = "the body of the request cannot be read", "send JSON in UTF-8"
        elif error.status_code == 404:
            said, remedy = f"{path} does not exist", "/openapi.json lists all endpoints"
        elif error.status_code == 405:
            said = f"{path} does not answer {request.method}"
            remedy = f"it answers {headers.get('allow') or headers.get('Allow') or 'GET'}"
        return answer(request, error.status_code, said, remedy, headers=headers)

    @app.exception_handler(OSError)
    def system(request: Request, error: OSError) -> Response:
        """A full disk, too many open files: no fault of the service."""
        if not (remedy := system_remedy(error)):
            raise error
        said = f"a file of the service cannot be used: {error.strerror}"
        return answer(request, 503, said, remedy)

    @app.exception_handler(ClientDisconnect)
    def left(request: Request, error: ClientDisconnect) -> Response:
        """A sender that broke off its request is no failure of the service; nobody reads this."""
        return problem(400, "the request was broken off")

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        return answer(
            request,
            500,
            f"the service failed: {type(error).__name__}",
            "its output shows the details",
        )


def describe_problems(app: FastAPI) -> None:
    """Adds the schema of an error to the OpenAPI document, whose responses refer to it."""
    build = app.openapi

    def described() -> dict[str, Any]:
        document = build()
        schemas = document["components"]["schemas"]
        own = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(own.pop("$defs"))
        schemas["Problem"] = own
        return document

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's way to change the document


def _fault(error: dict[str, Any]) -> FaultAnswer:
    if error["type"] == "json_invalid":
        place = error["loc"][-1]
        return FaultAnswer(path="body", message=f"not valid JSON, at character {place}")
    path = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path"))
    return FaultAnswer(path=path or "body", message=error["msg"])
