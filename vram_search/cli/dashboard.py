"""`vram-search dashboard`: optuna-dashboard on the database of the searches."""

from __future__ import annotations

import importlib.util
import webbrowser

import click

from vram_search.answers.lookup import opened
from vram_search.cli.console import echo
from vram_search.cli.options import database_option
from vram_search.errors import InputError
from vram_search.store.faults import describe
from vram_search.store.location import database_url


@click.command("dashboard", short_help="Watch the searches in a browser: optuna-dashboard.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    default=0,
    help="Port on 127.0.0.1; default: a free one.",
)
@click.option("--open", "browse", is_flag=True, help="Open it in your browser.")
@database_option
def command(port: int, browse: bool, database: str | None) -> None:
    """Serves optuna-dashboard for the searches in the database until Ctrl-C.

    It listens on this machine alone, changes nothing, and may be open while a search runs. A trial
    that was predicted not to fit is Infeasible there; one that ran out of memory is Pruned, with a
    violated constraint. Outcome, bytes and plan are user attributes. It needs the package
    optuna-dashboard.

    \b
    Examples:
      vram-search dashboard
      vram-search dashboard --port 8080 --open
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise InputError(
            "the package optuna-dashboard is not installed", 'pip install "optuna-dashboard>=0.21"'
        )
    with opened(database):
        pass  # a database that is missing or not ours is refused as everywhere
    from vram_search.search.dashboard import HOST, dashboard_server

    url = database_url(database)
    with dashboard_server(url, port) as server:
        page = f"http://{HOST}:{server.server_port}/dashboard"
        echo(f"optuna-dashboard of {describe(url)}\n{page}\nCtrl-C ends it")
        if browse:
            webbrowser.open(page)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            echo()
