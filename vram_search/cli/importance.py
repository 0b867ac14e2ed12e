"""`vram-search importance`: which hyperparameters decided the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from vram_search.answers.importance import ImportanceAnswer, ImportanceItem
from vram_search.cli.console import echo
from vram_search.cli.csv_output import csv_option, print_csv, refuse_both
from vram_search.cli.options import (
    database_option,
    json_option,
    print_json,
    results_of,
    study_option,
)
from vram_search.report.wrapping import answer_width, wrapped

COLUMNS = ("hyperparameter", "share", "group", "low", "high", "trials", "median_eval_loss")
_BAR_WIDTH = 30
FEW = 5
"""A median of fewer trials may be luck."""
_MOST_GROUP, _BESIDE_GROUP = 30, 40
"""Columns of a group's name, and of the line beside it."""


@click.command("importance", short_help="Which settings changed the loss most.")
@study_option
@database_option
@json_option
@csv_option
def command(study: str | None, database: str | None, as_json: bool, as_csv: bool) -> None:
    """How much of the spread of eval_loss each hyperparameter explains by itself.

    A share is epsilon squared on the ranks of eval_loss, 0 to 1, over complete trials;
    joint effects of hyperparameters are not in it. Below it is the median eval_loss of each value.

    \b
    Examples:
      vram-search importance
      vram-search importance --study td-010 --json
    """
    refuse_both(as_json, as_csv)
    with results_of(study, database) as results:
        answer = results.importance(study)
    if as_json:
        print_json(answer.as_dict())
    elif as_csv:
        print_csv(COLUMNS, _rows(answer))
    else:
        spread = f"share of the spread of {answer.objective}"
        title = f"study {answer.study}: {spread}, {answer.trials} trials"
        sentence = wrapped(answer.sentence, "")
        echo("\n".join([*sentence, title, *_lines(answer.importances)]))


def _rows(answer: ImportanceAnswer) -> Iterator[dict[str, Any]]:
    """A row for each group."""
    for item in answer.importances:
        for group in item.groups:
            own = {"hyperparameter": item.hyperparameter, "share": item.share}
            yield {**own, **group.as_dict()}


def _lines(items: Sequence[ImportanceItem]) -> list[str]:
    lines, width = [], min(_MOST_GROUP, answer_width() - _BESIDE_GROUP)
    for item in items:
        bar = "#" * round(item.share * _BAR_WIDTH)
        lines.append(f"{item.hyperparameter:<15} {item.share:>4.0%}  {bar}".rstrip())
        lowest = min(group.median_eval_loss for group in item.groups)
        for group in item.groups:
            mark = "  lowest" if group.median_eval_loss == lowest else ""
            trials = "1 trial" if group.trials == 1 else f"{group.trials} trials"
            mark += "  (too few)" if mark and group.trials < FEW else ""
            name = f"{group.group[:width]:<{width}}"
            lines.append(f"    {name} median {group.median_eval_loss:.4f} of {trials}{mark}")
    return lines
