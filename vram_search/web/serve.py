"""Runs the service: database, folders, token, lock, and the HTTP server."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from filelock import FileLock, Timeout

from vram_search.errors import InputError
from vram_search.outbound.delivery import delivering
from vram_search.resources import data_folder, shipped
from vram_search.shown_text import shown
from vram_search.store import open_store
from vram_search.store.location import files_folder, service_lock
from vram_search.web.app import make_app
from vram_search.web.connections import LimitedProtocol, most_connections
from vram_search.web.guard import MOST_HEADER_BYTES
from vram_search.web.scheduler import Scheduler
from vram_search.web.service import Service
from vram_search.web.token import Credentials, load_token

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLOSING_SECONDS = 2
"""Open event streams get this long when the service ends."""


@dataclass(frozen=True)
class Address:
    """Where the service listens, and the names under which it may be reached."""

    host: str
    port: int
    names: Sequence[str] = ()

    @classmethod
    def parse(cls, host: str, port: int, allowed: Sequence[str] = ()) -> Address:
        """Reads `--host` and `--allow-host`, which may be written as in a browser's address.

        Raises:
            InputError: one of them names no host, or `--host` another port.
        """
        names = [_host_and_port(name, "--allow-host")[0] for name in allowed]
        name, other = _host_and_port(host, "--host")
        if other not in (None, port):
            raise InputError(f"--host {host} names a port", f"write --host {name} --port {other}")
        return cls(name, port, names)

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach it."""
        return self.host in LOOPBACK

    @property
    def hosts(self) -> list[str]:
        """Names that the guard accepts."""
        own = [] if self.is_local else [*addresses_here(), socket.gethostname().lower()]
        return [*LOOPBACK, self.host, *own, *self.names]

    def url(self, host: str | None = None) -> str:
        """The page's address."""
        name = host or ("127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host)
        return f"http://{_with_port(name, self.port)}/"

    def __str__(self) -> str:
        return _with_port(self.host, self.port)


def _with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host_and_port(text: str, option: str) -> tuple[str, int | None]:
    """The host and the port: `x.example` and 443 of `https://x.example:443/`, `::1` of `[::1]`.

    Raises:
        InputError: there is no host. An empty one would listen on every address of this machine.
    """
    text = text.strip()
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(text)), None  # ::1 is no host with a port
    with contextlib.suppress(ValueError):  # half of a bracket, a port of letters
        parts = urlsplit(text if "//" in text else f"//{text}")
        if parts.hostname is not None:
            return parts.hostname, parts.port
    raise InputError(f"{option} {text!r} names no host", "for example 127.0.0.1 or x.example")


def token_file() -> Path:
    """The file of the service's token."""
    return data_folder() / "service-token"


def serve(
    url: str,
    address: Address,
    folders: Sequence[Path],
    *,
    runs_queue: bool,
    announce: Callable[[Credentials, bool], None],
) -> None:
    """Serves until Ctrl-C. A study that runs goes on in its own process.

    Args:
        folders: studies may name files in these folders, and in the folder for uploads.
        runs_queue: False only shows the queue.
        announce: called with the credentials, and with True at the first start.

    Raises:
        InputError: another service works on this database, the port is taken, a folder does not
            exist, or the token file cannot be used.
        StoreError: the database cannot be used.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--folder {folder} is not a folder", "name one that exists")
    uploads = files_folder(url) / ".uploads"
    credentials, is_new = load_token(token_file())
    with (
        contextlib.closing(open_store(url, create=True)) as store,
        _only_one(url),
        delivering(store, lambda text: print(shown(text), file=sys.stderr)),
    ):
        service = Service(
            store,
            url,
            [*(folder.resolve() for folder in folders), uploads.resolve(), shipped("studies")],
            uploads.resolve(),
            credentials,
            cookie=f"vram_search_{address.port}",
        )
        scheduler = Scheduler(store, url) if runs_queue else None
        listening = listen(address)
        announce(credentials, is_new)
        config = uvicorn.Config(
            make_app(service, address.hosts, scheduler),
            http=LimitedProtocol,
            backlog=most_connections() // 4,  # asyncio accepts so many before it looks at the first
            ws="none",
            log_level="warning",
            server_header=False,
            h11_max_incomplete_event_size=MOST_HEADER_BYTES,
            timeout_graceful_shutdown=CLOSING_SECONDS,
            forwarded_allow_ips="",
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


@contextlib.contextmanager
def _only_one(url: str) -> Iterator[None]:
    file = service_lock(url)
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, timeout=1)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            "another service works on this database", "open its page, or end it first"
        ) from None
    try:
        yield
    finally:
        lock.release()


def listen(address: Address) -> socket.socket:
    """Opens the service's port.

    Raises:
        InputError: the address is not of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address.host, address.port))
        listening.listen()  # a browser that comes before the application is ready waits
    except (OSError, TypeError) as error:  # TypeError: letters that no name of a host has
        listening.close()
        is_host = not isinstance(error, OSError) or (
            isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        )
        why = error.strerror if isinstance(error, OSError) else "this is no name of a host"
        raise InputError(
            f"{address} cannot be used: {why}",
            "name an address of this machine with --host, for example 127.0.0.1, or 0.0.0.0 for all"
            if is_host
            else "name another port with --port",
        ) from None
    return listening


def addresses_here() -> list[str]:
    """Addresses of this machine in its networks, the one that other machines see first."""
    found = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; the system chooses the network's address
        found.append(str(probe.getsockname()[0]))
    with contextlib.suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)]
    own = [address.split("%")[0] for address in found]
    return [a for a in dict.fromkeys(own) if not ipaddress.ip_address(a).is_loopback]
