"""Guards every request: host, origin, size, login and role; adds the security headers.

An ASGI middleware, so that nothing of the application runs before the checks. The table of
docs/service.md lists each item with the request that was tried.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vram_search.web.problems import problem
from vram_search.web.token import SESSION_SECONDS, Credentials, Role

MOST_BODY_BYTES = 1 << 20
MOST_UPLOAD_BYTES = 64 << 20
MOST_HEADER_BYTES = 16 << 10
MOST_FAILURES = 10
"""Failed logins of one address within WINDOW_SECONDS; from all addresses ten times as many."""
WINDOW_SECONDS = 60.0
READING = ("GET", "HEAD")
UPLOADS = "/api/v1/uploads/"
EVENTS = "/api/v1/events"
"""It answers HEAD with 405: its body has no end."""
PUBLIC = ("/login", "/style.css", "/api/v1/health")
"""Paths that need no login, besides /static/."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser sends forms with `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class TooLargeError(HTTPException):
    """The body of a request is larger than allowed; FastAPI passes an HTTPException on."""

    def __init__(self, most: int) -> None:
        super().__init__(413, _TOO_LARGE)
        self.remedy = _at_most(most)


@dataclass
class FailedLogins:
    """The times of failed logins by address, of the last WINDOW_SECONDS."""

    by_address: dict[str, deque[float]] = field(default_factory=dict)

    def add(self, address: str) -> None:
        self.by_address.setdefault(address, deque()).append(time.monotonic())

    def wait_seconds(self, address: str) -> int:
        """Seconds until this address may try again; 0 if it may now."""
        now, total = time.monotonic(), 0
        for other, times in list(self.by_address.items()):
            while times and times[0] < now - WINDOW_SECONDS:
                times.popleft()
            if not times:
                del self.by_address[other]
            total += len(times)
        own = self.by_address.get(address, ())
        if len(own) < MOST_FAILURES and total < 10 * MOST_FAILURES:
            return 0
        return int(WINDOW_SECONDS - (now - (own[0] if own else now))) + 1


@dataclass
class Guard:
    """The middleware.

    Args:
        hosts: names under which the service may be reached; other names are refused, so that a web
            page cannot reach it under a name of its own (DNS rebinding).
        cookie: name of the session's cookie.
    """

    app: ASGIApp
    credentials: Credentials
    hosts: Collection[str]
    cookie: str
    failures: FailedLogins = field(default_factory=FailedLogins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        response = self._refusal(scope)
        if response is None:
            receive = _limited(receive, most_bytes(scope["path"]))
            if scope["method"] == "HEAD" and scope["path"] != EVENTS:
                scope = {**scope, "method": "GET"}  # the server leaves the body out

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "no-cache")  # by its ETag
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (response or self.app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The response to a request that goes no further; sets `scope["role"]` otherwise."""
        headers, method, path = Headers(scope=scope), scope["method"], scope["path"]
        host = headers.get("host", "")
        if _split(f"//{host}").hostname not in self.hosts:
            return problem(
                421,
                f"this service is not known as {host[:100]!r}",
                "open it by the address that it printed, or start it with --allow-host NAME",
            )
        if method not in READING and not _is_same_origin(headers, host):
            return problem(403, "the request comes from another web page (Origin)")
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy may count the body one way and this server the other, and the body's end
            # would be taken for another request (RFC 9112, 6.1).
            said = "the request has two lengths (Content-Length and Transfer-Encoding)"
            return problem(400, said, "send one of them", headers={"Connection": "close"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most_bytes(path):
            return problem(413, _TOO_LARGE, _at_most(most_bytes(path)))
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADER_BYTES:
            return problem(431, "the headers of the request are too large")
        if _is_wrong_type(headers, path):
            return problem(415, "the body of the request is not JSON", _JSON_REMEDY)
        if path in PUBLIC or path.startswith("/static/"):
            scope["role"] = None
            return None
        return self._login(scope, headers)

    def _login(self, scope: Scope, headers: Headers) -> Response | None:
        """Finds the role by bearer header, the token in a link, or cookie.

        A token that is sent must be right, also beside a cookie: who has the read-only link must
        not try tokens without a limit.
        """
        method, path = scope["method"], scope["path"]
        bearer, link = _bearer(headers), ""
        if bearer is None and method == "GET":
            link = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        given = bearer if bearer is not None else link or None
        if given is not None:
            address = scope["client"][0] if scope["client"] else ""
            if wait := self.failures.wait_seconds(address):
                again = {"Retry-After": str(wait)}
                return problem(429, "too many failed logins", f"wait {wait} s", headers=again)
            role = self.credentials.role_of(given)
            if role is None:
                self.failures.add(address)
                return problem(401, "the token is wrong", _TOKEN_REMEDY, headers=_BEARER)
        else:
            role = self._role_of_cookie(headers.get("cookie", ""))
        if role is None:
            if method == "GET" and "text/html" in headers.get("accept", ""):
                return RedirectResponse("/login", 303)
            return problem(401, "a login is needed", _TOKEN_REMEDY, headers=_BEARER)
        if link:
            return logged_in(self.credentials, self.cookie, role, path)
        if role == "viewer" and method not in READING:
            return problem(403, "this link is read-only", "log in with the service's token")
        scope["role"] = role
        return None

    def _role_of_cookie(self, text: str) -> Role | None:
        try:
            found = SimpleCookie(text).get(self.cookie)
        except CookieError:
            return None
        return None if found is None else self.credentials.role_of_session(found.value)


def logged_in(credentials: Credentials, cookie: str, role: Role, path: str = "/") -> Response:
    """A redirect that takes the token out of the address and leaves a cookie instead."""
    response = RedirectResponse("/" + path.lstrip("/\\"), 303)
    response.set_cookie(
        cookie,
        credentials.session(role),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        path="/",
    )
    return response


_JSON_REMEDY = "send JSON with `Content-Type: application/json`"
_TOO_LARGE = "the request is too large"
_TOKEN_REMEDY = "`vram-search serve --link` prints the link with the token"
_BEARER = {"WWW-Authenticate": "Bearer"}


def most_bytes(path: str) -> int:
    """The most bytes of a request's body."""
    return MOST_UPLOAD_BYTES if path.startswith(UPLOADS) else MOST_BODY_BYTES


def _at_most(most: int) -> str:
    return f"send at most {most} bytes"


def _split(url: str) -> SplitResult:
    """The parts of an address; empty if it is malformed."""
    try:
        return urlsplit(url)
    except ValueError:  # half of a bracket, for example
        return urlsplit("")


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _is_wrong_type(headers: Headers, path: str) -> bool:
    """True for a body sent to the API that is not JSON; a file with rows may be of any type."""
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if not has_body or not path.startswith("/api/") or path.startswith(UPLOADS):
        return False
    return headers.get("content-type", "").split(";")[0].strip().lower() != "application/json"


def _is_same_origin(headers: Headers, host: str) -> bool:
    """Tells whether a request that changes something comes from our own page or a script.

    A browser sends Origin or Sec-Fetch-Site with it; a script without a cookie sends neither.
    """
    origin = headers.get("origin")
    if origin is not None:
        return _split(origin).netloc.lower() == host.lower()
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    return "cookie" not in headers


def _limited(receive: Receive, most: int) -> Receive:
    """Counts the bytes of a body, whose announced length may be missing or wrong."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message: dict[str, Any] = dict(await receive())
        seen += len(message.get("body", b""))
        if seen > most:
            raise TooLargeError(most)
        return message

    return counted
