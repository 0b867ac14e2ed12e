"""`vram-search try NAME=VALUE ...`: a search tries a point of yours next."""

from __future__ import annotations

from typing import Any

import click

from vram_search.answers.lookup import find_study, find_trial, opened
from vram_search.cli.console import echo
from vram_search.cli.options import database_option, json_option, print_json, study_option
from vram_search.errors import InputError
from vram_search.report.words import hyperparameter_words
from vram_search.store.location import database_url


@click.command("try", short_help="Let a search try a point of yours next.")
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option(
    "--like", default="best", show_default=True, metavar="N|best", help="Trial to change."
)
@study_option
@database_option
@json_option
def command(
    values: tuple[str, ...], like: str, study: str | None, database: str | None, as_json: bool
) -> None:
    """Puts a point in front of what the search proposes, also while it runs.

    The point is trial N with the values that you name. A search that has ended tries it when it is
    run again.

    \b
    Examples:
      vram-search try lora_rank=32
      vram-search try learning_rate=2e-4 optim=adamw_8bit --like 7
    """
    wanted = dict(_parsed(text) for text in values)
    from vram_search.worker.next_point import try_next

    with opened(database) as store:
        record = find_study(store, study)
        trial = find_trial(store, record, like)
        point = try_next(store, database_url(database), record, wanted, trial)
    settings = point.model_dump(mode="json")
    if as_json:
        print_json({"study": record.name, "hyperparameters": settings})
    else:
        echo(f"study {record.name} tries next: {hyperparameter_words(settings)}")


def _parsed(text: str) -> tuple[str, Any]:
    from vram_search.parsing.parse_error import ParseError
    from vram_search.parsing.yaml_text import parse_yaml

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InputError(f"{text!r} is not of the form NAME=VALUE", "write it like lora_rank=32")
    try:
        parsed = parse_yaml(value)
    except ParseError as error:
        raise InputError(f"{name}: {error.problem}", "write it like lora_rank=32") from None
    return name.strip(), parsed
