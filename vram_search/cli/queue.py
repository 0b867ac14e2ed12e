"""`vram-search queue`: what runs, what runs next, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vram_search.answers.lookup import opened
from vram_search.cli.console import echo
from vram_search.cli.options import (
    SuggestingGroup,
    database_option,
    hours_option,
    json_option,
    next_time_of_day,
    print_json,
)
from vram_search.errors import InputError
from vram_search.spec.limits import MOST_TRIALS
from vram_search.store.location import database_url
from vram_search.units import counted, format_bytes

if TYPE_CHECKING:
    from vram_search.answers.queue import QueueAnswer
    from vram_search.store.queue import QueueState, StudyQueue


@click.group(
    "queue",
    cls=SuggestingGroup,
    invoke_without_command=True,
    short_help="What runs, what runs next, and in which order.",
)
@click.pass_context
def command(context: click.Context) -> None:
    """Shows and orders the studies that wait for the card.

    `vram-search serve` runs the studies that `queue add` or `run --detach` handed to it. A
    `vram-search run` waits in the same queue, in its own process.

    \b
    Examples:
      vram-search queue
      vram-search queue add td-010.yaml --not-before 22:00 --until 07:00
      vram-search queue move 3 1
      vram-search queue pause 3
    """
    if context.invoked_subcommand is None:
        context.invoke(list_entries)


@command.command("list", short_help="Running and waiting studies.")
@click.option("--all", "show_all", is_flag=True, help="Ended studies, too.")
@database_option
@json_option
def list_entries(
    show_all: bool = False, database: str | None = None, as_json: bool = False
) -> None:
    """Lists running and waiting studies in the order in which they run."""
    from vram_search.store.queue import OPEN_STATES, STATES

    _show(database, as_json=as_json, states=STATES if show_all else OPEN_STATES)


@command.command("add", short_help="Hand a study to the service.")
@click.argument("study_file", metavar="STUDY.yaml", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the study file, as in `run`.",
)
@click.option(
    "--trials", type=click.IntRange(1, MOST_TRIALS), metavar="N", help="Stop at N trials in all."
)
@click.option(
    "--not-before", metavar="TIME", help="Earliest start, e.g. 22:00 or 2026-12-01T22:00."
)
@click.option("--until", metavar="TIME", help="Stop at this time.")
@hours_option
@click.option("--paused", is_flag=True, help="Wait until `queue resume`.")
@click.option("--accept-changes", is_flag=True, help="Continue although the study file changed.")
@database_option
@json_option
def add(
    study_file: Path,
    overrides: tuple[str, ...],
    trials: int | None,
    not_before: str | None,
    until: str | None,
    hours: float | None,
    paused: bool,
    accept_changes: bool,
    database: str | None,
    as_json: bool,
) -> None:
    """Adds a study at the end of the queue; the service runs it when its turn comes."""
    from vram_search.answers.queue import add_study
    from vram_search.gpu.this_card import card_here
    from vram_search.spec import load_study
    from vram_search.store import open_store
    from vram_search.tools.file_kinds import naming_other_files

    start, end = _window(not_before, until)
    with naming_other_files(study_file, "run"):
        study = load_study(study_file, overrides, card_here=card_here)
    store = open_store(database_url(database or study.database), create=True)
    try:
        add_study(
            store,
            study,
            state="paused" if paused else "queued",
            trials=trials,
            not_before=start,
            until=end,
            hours=hours,
            accept_changes=accept_changes,
        )
    finally:
        store.close()
    _show(database or study.database, as_json=as_json)


@command.command("move", short_help="Let a study run earlier or later.")
@click.argument("entry", type=int, metavar="ID")
@click.argument("place", type=click.IntRange(min=1), metavar="PLACE")
@database_option
@json_option
def move(entry: int, place: int, database: str | None, as_json: bool) -> None:
    """Moves an entry to PLACE among those that wait; 1 is next."""
    _do(database, lambda queue: queue.move(entry, place), as_json=as_json)


@command.command("remove", short_help="Take a study out of the queue.")
@click.argument("entry", type=int, metavar="ID")
@database_option
@json_option
def remove(entry: int, database: str | None, as_json: bool) -> None:
    """Takes a study out of the queue. A running one is interrupted; its record stays."""
    _do(database, lambda queue: queue.ask(entry, "cancel"), as_json=as_json)


@command.command("pause", short_help="Start no new trials of a study.")
@click.argument("entry", type=int, metavar="ID")
@database_option
@json_option
def pause(entry: int, database: str | None, as_json: bool) -> None:
    """Starts no new trials of a study until `queue resume`; its running trial finishes."""
    _do(database, lambda queue: queue.ask(entry, "pause"), as_json=as_json)


@command.command("stop", short_help="End a study after its running trial.")
@click.argument("entry", type=int, metavar="ID")
@database_option
@json_option
def stop(entry: int, database: str | None, as_json: bool) -> None:
    """Ends a study after its running trial."""
    _do(database, lambda queue: queue.ask(entry, "stop"), as_json=as_json)


@command.command("resume", short_help="Let a paused study run again.")
@click.argument("entry", type=int, metavar="ID")
@database_option
@json_option
def resume(entry: int, database: str | None, as_json: bool) -> None:
    """Lets the service run a paused study again, at its place in the queue."""
    _do(database, lambda queue: queue.resume(entry), as_json=as_json)


def queue_lines(answer: QueueAnswer) -> list[str]:
    """The queue as lines of text."""
    lines = []
    for entry in answer.entries:
        words = [f"{entry.id:>4}  {entry.state:<9}  {entry.study}"]
        if entry.request:
            words.append(f"asked to {entry.request}")
        if entry.state == "running" and entry.card_bytes:
            words.append(f"{format_bytes(entry.card_bytes)} of the card at most (predicted)")
        if entry.trials:
            words.append(counted(entry.trials, "trial", "trials"))
        if entry.not_before:
            words.append(f"not before {_clock(entry.not_before)}")
        if entry.until:
            words.append(f"until {_clock(entry.until)}")
        if entry.hours:
            words.append(f"for {entry.hours:g} h")
        if not entry.is_detached:
            words.append(f"in process {entry.pid}" if entry.pid else "in its own process")
        if entry.message:
            words.append(entry.message)
        lines.append(", ".join(words))
    if lines:
        lines.insert(0, f"{'ID':>4}  {'state':<9}  study")
    else:
        lines.append("the queue is empty")
    waits = any(entry.state == "queued" and entry.is_detached for entry in answer.entries)
    if waits and not answer.service_is_running:
        lines.append("no service is running: `vram-search serve` runs the studies that wait")
    return lines


def _clock(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _window(not_before: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """The moments of --not-before and --until. At 23:00, `--not-before 22:00 --until 07:00` is the
    night that has begun."""
    start, end = _moment("--not-before", not_before), _moment("--until", until)
    if not_before and start and end and start >= end and _is_time_of_day(not_before):
        start = None
    return start, end


def _is_time_of_day(text: str) -> bool:
    return len(text) <= len("22:00")


def _moment(option: str, text: str | None) -> datetime | None:
    """The moment of a clock time (the next one) or of a date with a time.

    Raises:
        InputError: the text is neither.
    """
    if text is None:
        return None
    try:
        if _is_time_of_day(text):
            return next_time_of_day(datetime.strptime(text, "%H:%M").time()).astimezone()
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise InputError(
            f"{option} {text!r} is not a time", "write it like 22:00 or 2026-12-01T22:00"
        ) from None


def _do(database: str | None, change: Callable[[StudyQueue], object], *, as_json: bool) -> None:
    from vram_search.store.queue import StudyQueue

    with opened(database) as store:
        change(StudyQueue(store.engine))
    _show(database, as_json=as_json)


def _show(database: str | None, *, as_json: bool, states: Collection[QueueState] = ()) -> None:
    from vram_search.answers.queue import queue_answer
    from vram_search.store.queue import OPEN_STATES

    with opened(database) as store:
        answer = queue_answer(store, database_url(database), states or OPEN_STATES)
    if as_json:
        print_json(answer.as_dict())
    else:
        echo("\n".join(queue_lines(answer)))
