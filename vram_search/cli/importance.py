"""`vram-search importance`: which hyperparameters decided the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from vram_search.answers.lookup import find_study, opened
from vram_search.cli.csv_output import csv_option, print_csv, refuse_both
from vram_search.cli.options import database_option, json_option, print_json, study_option
from vram_search.errors import InputError
from vram_search.report.figures import study_json
from vram_search.report.importance import FEWEST_TRIALS, Importance, importances

COLUMNS = ("hyperparameter", "share", "group", "low", "high", "trials", "median_eval_loss")
_BAR_WIDTH = 30


@click.command("importance", short_help="What mattered: the hyperparameters' share of the spread.")
@study_option
@database_option
@json_option
@csv_option
def command(study: str | None, database: str | None, as_json: bool, as_csv: bool) -> None:
    """How much of the spread of eval_loss each hyperparameter explains by itself.

    A share is epsilon squared on the ranks of eval_loss, 0 to 1, over complete trials; what
    hyperparameters do together is not in it. Below it the median eval_loss by value.

    \b
    Examples:
      vram-search importance
      vram-search importance --study td-010 --json
    """
    refuse_both(as_json, as_csv)
    with opened(database) as store:
        record = find_study(store, study)
        trials = store.top_trials(record.id)
    if len(trials) < FEWEST_TRIALS:
        raise InputError(
            f"study {record.name} has {len(trials)} complete trials with an eval_loss: too few "
            "to say what mattered",
            f"it takes {FEWEST_TRIALS}; `vram-search compare` tells two trials apart",
        )
    found = importances(trials)
    if not found:
        raise InputError(
            f"no hyperparameter differs between the complete trials of study {record.name}",
            "give its search_space more than one value",
        )
    if as_json:
        print_json({**study_json(record), "trials": len(trials), "importances": _as_list(found)})
    elif as_csv:
        print_csv(COLUMNS, _rows(found))
    else:
        title = f"study {record.name}: share of the spread of eval_loss, {len(trials)} trials"
        click.echo("\n".join([title, *_lines(found)]))


def _as_list(found: Sequence[Importance]) -> list[dict[str, Any]]:
    return [
        {
            "hyperparameter": item.name,
            "share": item.share,
            "groups": [
                {
                    "group": group.label,
                    "low": group.low,
                    "high": group.high,
                    "trials": len(group.losses),
                    "median_eval_loss": group.median_loss,
                }
                for group in item.groups
            ],
        }
        for item in found
    ]


def _rows(found: Sequence[Importance]) -> Iterator[dict[str, Any]]:
    """A row a group."""
    for item in _as_list(found):
        for group in item["groups"]:
            yield {"hyperparameter": item["hyperparameter"], "share": item["share"], **group}


def _lines(found: Sequence[Importance]) -> list[str]:
    lines = []
    for item in found:
        bar = "#" * round(item.share * _BAR_WIDTH)
        lines.append(f"{item.name:<15} {item.share:>4.0%}  {bar}".rstrip())
        lowest = min(group.median_loss for group in item.groups)
        for group in item.groups:
            mark = "  lowest" if group.median_loss == lowest else ""
            lines.append(
                f"    {group.label[:32]:<32} median {group.median_loss:.4f} "
                f"of {len(group.losses)}{mark}"
            )
    return lines
