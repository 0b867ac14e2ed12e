"""Options that several subcommands share."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vram_search.cli.console import echo
from vram_search.errors import InputError
from vram_search.shown_text import escaped_controls, without_secrets_in
from vram_search.spec.limits import MOST_HOURS

if TYPE_CHECKING:
    from vram_search.answers.results import Results
    from vram_search.store import Store, StudyRecord

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

F = TypeVar("F", bound=Callable[..., Any])


class SuggestingGroup(click.Group):
    """Suggests the nearest command for one that does not exist."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds a command.

        Raises:
            InputError: there is none of that name.
        """
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], names, n=2)
            remedy = f"did you mean {' or '.join(near)}?" if near else ""
            raise InputError(
                f"no command {args[0]!r}", remedy or f"see `{ctx.command_path} --help`"
            )
        return super().resolve_command(ctx, args)


class NamedPath(click.Path):
    """A path that is not empty: pathlib takes "", as an unset variable of the shell leaves it, for
    the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the path; an empty one is a click.BadParameter."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class FiniteFloatRange(click.FloatRange):
    """click compares nan with the ends of a range, and finds it inside."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def database_option(function: F) -> F:
    return click.option(
        "--database",
        metavar="URL|FILE",
        help="Database; default $VRAM_SEARCH_DATABASE, else one in your data folder.",
    )(function)


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def study_option(function: F) -> F:
    return click.option(
        "--study", metavar="NAME", help="Study name or file; default: the latest search."
    )(function)


def hours_option(function: F) -> F:
    return click.option(
        "--hours",
        type=FiniteFloatRange(min=0, max=MOST_HOURS, min_open=True),
        metavar="H",
        help="Stop after H hours.",
    )(function)


def until_option(function: F) -> F:
    return click.option("--until", metavar="HH:MM", help="Stop at this time of day, e.g. 07:00.")(
        function
    )


def beside_option(function: F) -> F:
    return click.option(
        "--beside", is_flag=True, help="Do not wait while another study holds the card."
    )(function)


def keep_awake_option(function: F) -> F:
    return click.option(
        "--keep-awake/--no-keep-awake",
        default=True,
        help="Keep the machine from falling asleep meanwhile (Windows, systemd). On by default.",
    )(function)


def max_tokens_option(default: int) -> Callable[[F], F]:
    return click.option(
        "--max-tokens",
        type=click.IntRange(1, 8192),
        metavar="N",
        default=default,
        show_default=True,
        help="Longest answer.",
    )


@contextmanager
def results_of(study: str | None, database: str | None) -> Iterator[Results]:
    """Opens the database; says which study is meant by default if there are several."""
    from vram_search.answers.results import Results

    with Results.open(database) as results:
        if study is None:
            tell_which(results.store)
        yield results


def meant_study(store: Store, study: str | None) -> StudyRecord:
    """Returns the study that a command names; says which one is meant by default.

    Raises:
        InputError: it is not in the database.
    """
    from vram_search.answers.lookup import find_study

    if study is None:
        tell_which(store)
    return find_study(store, study)


def tell_which(store: Store) -> None:
    """Says which study is meant by default if the database holds several."""
    count, latest = len(store.studies()), store.latest_study()
    if count > 1 and latest is not None:
        from vram_search.report.wrapping import wrapped

        meant = f"study {latest.name}, the latest search of {count} studies"
        echo("\n".join(wrapped(f"{meant}; --study NAME chooses another", "")), err=True)


def no_trace_option(function: F) -> F:
    """`--no-trace`: models without a formula get a generic estimate."""

    def switch_off(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            os.environ["VRAM_SEARCH_TRACE"] = "0"

    return click.option(
        "--no-trace",
        is_flag=True,
        expose_value=False,
        callback=switch_off,
        help="Do not trace a model without a formula.",
    )(function)


def print_json(value: object) -> None:
    """Prints JSON; see `json_text`."""
    echo(json_text(value, indent=2))


def json_text(value: object, indent: int | None = None) -> str:
    """Letters as they are where stdout takes every one, else as JSON's escapes."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    text = json.dumps(
        without_secrets_in(value), indent=indent, ensure_ascii=not is_unicode, default=str
    )
    return escaped_controls(text)


def time_of_until(hours: float | None, until: str | None) -> float | None:
    """Reads `--until` beside `--hours`: seconds since the epoch; None without it.

    Raises:
        InputError: both are given, or it is not a time of day.
    """
    if hours is not None and until is not None:
        raise InputError("--hours and --until exclude each other")
    return None if until is None else parse_until(until)


def parse_until(until: str) -> float:
    """The next such time of day in seconds since the epoch.

    Raises:
        InputError: it is not a time of day.
    """
    try:
        at = datetime.strptime(until, "%H:%M").time()
    except ValueError:
        raise InputError(f"--until {until!r} is not a time of day", "write it like 07:00") from None
    return next_time_of_day(at).timestamp()


def next_time_of_day(at: time) -> datetime:
    """The next such time by this machine's clock, without a zone: a day on which the clock is
    changed has 23 or 25 hours."""
    now = datetime.now()
    moment = datetime.combine(now, at)
    return moment if moment > now else moment + timedelta(days=1)
