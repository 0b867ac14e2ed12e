"""Options and look-ups that several subcommands share."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from vram_search.errors import InputError
from vram_search.store import Store, StudyRecord, TrialRecord, open_store
from vram_search.store.location import database_url

F = TypeVar("F", bound=Callable[..., Any])

DIGITS_OF_A_NUMBER = 18
"""The database's integers have 64 bits; no study has trials of longer numbers."""


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
        "--study", metavar="NAME", help="Study name or file; default: the latest one."
    )(function)


@contextmanager
def opened(database: str | None) -> Iterator[Store]:
    """The database for reading.

    Raises:
        StoreError: there is none, or it is not ours.
    """
    store = open_store(database_url(database), create=False)
    try:
        yield store
    finally:
        store.close()


def find_study(store: Store, name: str | None) -> StudyRecord:
    """The named study, or the one with the latest activity.

    Raises:
        InputError: it is not in the database, or the file that should name it is faulty.
    """
    if name is None:
        latest = store.latest_study()
        if latest is None:
            raise InputError("the database holds no study", "run one: vram-search run STUDY.yaml")
        return latest
    found = store.study(name) or store.study(_name_in_file(name))
    if found is None:
        known = ", ".join(study.name for study in store.studies()) or "none"
        raise InputError(f"no study {name!r} in the database", f"there are: {known}")
    return found


def _name_in_file(name: str) -> str:
    """`studies/demo.yaml` names the study that the file names.

    Raises:
        InputError: the file is no YAML mapping.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return path.stem
    from vram_search.spec.load import load_mapping

    return str(load_mapping(path).get("study", path.stem))


def find_trial(store: Store, study: StudyRecord, which: str) -> TrialRecord:
    """A trial by number, or "best".

    Raises:
        InputError: there is none.
    """
    if which == "best":
        top = store.top_trials(study.id, limit=1)
        if not top:
            raise InputError(
                f"study {study.name} has no complete trial yet", "see `vram-search top --all`"
            )
        return top[0]
    if not which.isdecimal():
        raise InputError(f"{which!r} is no trial: give its number, or best")
    trial = store.trial(study.id, int(which)) if len(which) <= DIGITS_OF_A_NUMBER else None
    if trial is None:
        raise InputError(
            f"study {study.name} has no trial {which}", "`vram-search top --all` lists them"
        )
    return trial


def print_json(value: object) -> None:
    """Letters as they are where stdout takes every one, else as JSON's escapes."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    click.echo(json.dumps(value, indent=2, ensure_ascii=not is_unicode, default=str))
