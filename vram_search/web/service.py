"""The objects that all requests share, and helpers of the endpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from fastapi import Request
from fastapi.responses import JSONResponse

from vram_search.answers.base import AnswerPart
from vram_search.answers.plain import PlainPart
from vram_search.answers.results import Results
from vram_search.store import Store
from vram_search.store.queue import StudyQueue
from vram_search.web.guard import FailedLogins
from vram_search.web.token import Credentials, Role


@dataclass
class Service:
    """The database and the settings of a running service.

    Args:
        url: of the database.
        folders: requests may name files under these alone; relative paths start from the first.
        uploads: the folder for rows that are sent; one of `folders`.
    """

    store: Store
    url: str
    folders: Sequence[Path]
    uploads: Path
    credentials: Credentials
    cookie: str = "vram_search"
    failures: FailedLogins = field(default_factory=FailedLogins)

    @property
    def results(self) -> Results:
        """Every question about the recorded studies."""
        return Results(self.store)

    @property
    def queue(self) -> StudyQueue:
        return StudyQueue(self.store.engine)


def service_of(request: Request) -> Service:
    """The service that a request was sent to."""
    return cast(Service, request.app.state.service)


def role_of(request: Request) -> Role | None:
    """The role of whoever sent the request; None on pages that need no login."""
    return cast("Role | None", request.scope["role"])


def as_json(answer: AnswerPart | PlainPart, status: int = 200) -> JSONResponse:
    """An answer as the command line prints it with --json."""
    return JSONResponse(answer.as_dict(), status)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is deleted at the end."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="vram-search-") as name:
        yield Path(name)
