"""`vram-search serve`: the service with its page and REST API."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vram_search.cli.console import echo, echo_styled, output_may_fail
from vram_search.cli.options import NamedPath, database_option
from vram_search.errors import InputError
from vram_search.store.faults import describe
from vram_search.store.location import database_url

if TYPE_CHECKING:
    from vram_search.web.serve import Address
    from vram_search.web.token import Credentials

PORT = 8416
PACKAGES = ("fastapi", "uvicorn", "segno")


@click.command("serve", short_help="The service: queue, page and REST API.")
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on.",
)
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(1, 65535),
    default=PORT,
    show_default=True,
    help="Port to listen on.",
)
@click.option("--lan", is_flag=True, help="Listen in the local network; print a read-only QR code.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Another name of this machine.")
@click.option(
    "--folder",
    "folders",
    multiple=True,
    metavar="FOLDER",
    type=NamedPath(path_type=Path),
    help="Folder of files that studies may name; default: the current one. Repeatable.",
)
@click.option("--no-run", is_flag=True, help="Show the queue, and start no study.")
@click.option("--link", is_flag=True, help="Print the link with the token, and end.")
@database_option
def command(
    host: str,
    port: int,
    lan: bool,
    allow_host: tuple[str, ...],
    folders: tuple[Path, ...],
    no_run: bool,
    link: bool,
    database: str | None,
) -> None:
    """Runs the queue, and serves its page and REST API until Ctrl-C.

    The page needs a token. It is made at the first start, kept in a file that only you can read,
    and printed once as a link. A study that runs goes on when the service ends; the next service
    finds it. It needs the packages of the extra `serve`.

    \b
    Examples:
      vram-search serve
      vram-search serve --lan
      vram-search serve --folder ~/studies --port 8080
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"the service needs packages that are not installed: {', '.join(missing)}",
            'pip install "vram-search[serve]"',
        )
    from vram_search.web.serve import Address, serve, token_file
    from vram_search.web.token import load_token

    address = Address.parse("0.0.0.0" if lan else host, port, allow_host)
    if link:
        echo_styled(f"{address.url()}?token={load_token(token_file())[0].token}")
        return
    url = database_url(database)

    def announce(credentials: Credentials, is_new: bool) -> None:
        echo(f"vram-search serves {describe(url)}")
        if is_new:
            echo_styled(f"{address.url()}?token={credentials.token}")
            echo(f"this link is printed once; the token is kept in {token_file()}")
        else:
            echo(f"{address.url()} (`vram-search serve --link` prints the token, too)")
        if not address.is_local:
            _warn(address)
        if lan:
            _print_qr(address, credentials)
        echo("Ctrl-C ends the service; a study that runs goes on")

    with output_may_fail():
        serve(url, address, folders or (Path.cwd(),), runs_queue=not no_run, announce=announce)


def _warn(address: Address) -> None:
    echo(
        f"warning: every machine that reaches {address} can open the login. "
        "Whoever has the token can run studies here, and traffic is not encrypted (plain HTTP).",
        err=True,
    )


def _print_qr(address: Address, credentials: Credentials) -> None:
    import segno

    from vram_search.web.serve import addresses_here

    here = addresses_here()
    if not here:
        echo("this machine has no address in a network")
        return
    link = f"{address.url(here[0])}?token={credentials.viewer_token}"
    echo_styled(f"read-only link for a phone in the same network:\n{link}")
    segno.make(link).terminal(compact=True)
