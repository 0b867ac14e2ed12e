"""`vram-search verify N|best`: the export trained by the real tool, compared with the record."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vram_search.answers.lookup import find_trial, opened
from vram_search.cli.console import echo
from vram_search.cli.options import (
    FiniteFloatRange,
    NamedPath,
    database_option,
    json_option,
    meant_study,
    print_json,
    study_option,
)
from vram_search.report.wrapping import wrapped
from vram_search.store import StudyRecord, TrialRecord
from vram_search.store.location import database_url, file_name, study_folder
from vram_search.units import format_bytes, format_duration

if TYPE_CHECKING:
    from vram_search.verify import Check, Verification

DEFAULT_TOLERANCE = 0.01
"""Nats per token: agreeing runs of SmolLM2-135M differed by 0.002 to 0.006, rows or templates that
differ by 0.03 and more (docs/experiments.md, 24 and 27 November 2026)."""


@click.command("verify", short_help="Train an export with the real tool and compare.")
@click.argument("trial", metavar="N|best")
@study_option
@click.option(
    "--with",
    "tool",
    type=click.Choice(["llama-factory", "axolotl", "trl", "unsloth", "peft"]),
    required=True,
    help="Tool that trains it.",
)
@click.option(
    "--python",
    type=NamedPath(path_type=Path, dir_okay=False),
    help="Python of the tool's environment; default: that of its program on the PATH; peft: ours.",
)
@click.option(
    "--tolerance",
    type=FiniteFloatRange(min=0, min_open=True),
    metavar="NATS",
    default=DEFAULT_TOLERANCE,
    show_default=True,
    help="By how much the eval_loss may differ, per token.",
)
@click.option("--template", help="LLaMA-Factory's template; default: found by the model.")
@click.option(
    "-o",
    "--output",
    type=NamedPath(path_type=Path, file_okay=False),
    help="Folder of the run; default: beside the database.",
)
@database_option
@json_option
def command(
    trial: str,
    study: str | None,
    tool: str,
    python: Path | None,
    tolerance: float,
    template: str | None,
    output: Path | None,
    database: str | None,
    as_json: bool,
) -> None:
    """Exports a trial, trains it with the real tool in the tool's own environment, and compares
    the tool's rows, schedule, losses and peak with the record. It takes about as long as the
    trial did; Ctrl-C ends the tool too.

    Exit code: 0 if everything agrees, 1 if something does not, 2 for wrong input.

    \b
    Examples:
      vram-search verify best --with llama-factory
      vram-search verify best --with trl --python trl/bin/python
      vram-search verify 7 --with llama-factory --python lf/bin/python --json
    """
    from vram_search.verify import REAL_TOOLS, Recorded, find_environment, question_of, verify

    with opened(database) as store:
        record = meant_study(store, study)
        found = find_trial(store, record, trial)
        losses, evaluations = store.step_losses(found.id), store.evaluations(found.id)
    recorded = Recorded(record.of_trial(found), found, losses, evaluations)
    question_of(recorded)  # before anyone makes an environment of gigabytes for it
    environment = find_environment(python, REAL_TOOLS[tool])
    name = f"{file_name(record.name)}-trial-{found.number}"
    folder = output or (
        study_folder(database_url(database), record.name).verify
        / f"{name}{'' if tool == 'llama-factory' else f'-{tool}'}"
    )
    verification = verify(
        recorded,
        environment,
        folder,
        lambda line: echo(line, err=True),
        tolerance=tolerance,
        template=template,
        real=REAL_TOOLS[tool],
    )
    if as_json:
        print_json(_as_json(record, found, tool, verification))
    else:
        _print(record, found, verification)
    sys.exit(0 if verification.agrees else 1)


def _as_json(
    study: StudyRecord, trial: TrialRecord, tool: str, verification: Verification
) -> dict[str, Any]:
    return {
        "study": study.name,
        "trial": trial.number,
        "with": tool,
        "agrees": verification.agrees,
        "checks": [
            {**vars(check), "difference": check.difference} for check in verification.checks
        ],
        "overrides": list(verification.overrides),
        "versions": verification.tool.versions,
        "trial_versions": trial.versions,
        "python": str(verification.tool.python),
        "folder": str(verification.folder),
        "seconds": verification.seconds,
    }


def _print(study: StudyRecord, trial: TrialRecord, verification: Verification) -> None:
    versions = ", ".join(f"{name} {v}" for name, v in verification.tool.versions.items())
    head = f"study {study.name}, trial {trial.number}, trained by {versions}"
    echo("\n".join(wrapped(head, "", "  ")))
    if verification.overrides:
        echo(f"no GPU here: run with {' '.join(verification.overrides)}")
    echo(f"{'':<16}{'record':>12}{'tool':>12}{'difference':>12}{'allowed':>10}")
    for check in verification.checks:
        echo(_line(check))
    took = format_duration(verification.seconds)
    echo(f"the export {_agreement(verification)}; the tool took {took}")
    echo(f"files: {verification.folder}")


def _agreement(verification: Verification) -> str:
    if verification.agrees:
        return "agrees with the record"
    if any(check.agrees is False for check in verification.checks):
        return "DISAGREES with the record"
    return "is not verified: its losses could not be compared"


def _line(check: Check) -> str:
    word = {True: "ok", False: "DIFFERS", None: "-"}[check.agrees]
    cells = [check.ours, check.theirs, check.difference, check.tolerance]
    shown = [_figure(check.name, value) for value in cells]
    name = check.name.replace("_", " ")
    row = f"{name:<16}{shown[0]:>12}{shown[1]:>12}{shown[2]:>12}{shown[3]:>10}  {word}"
    notes = wrapped(check.note, " " * 4) if check.note else []
    return "\n".join([row, *notes])


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name.endswith("_bytes"):
        return format_bytes(value)
    return f"{value:.4f}" if name.endswith("_loss") else f"{value:d}"
