"""`vram-search best`: the best configuration found so far. Imports neither torch nor Optuna."""

from __future__ import annotations

from typing import Any

import click

from vram_search.answers.best import BestAnswer
from vram_search.answers.study import StudyAnswer
from vram_search.answers.trial import TrialAnswer
from vram_search.cli.console import echo
from vram_search.cli.csv_output import csv_option, print_csv, refuse_both
from vram_search.cli.last_night import night_lines
from vram_search.cli.options import (
    database_option,
    json_option,
    print_json,
    results_of,
    study_option,
)
from vram_search.importing.words import provenance_lines
from vram_search.report.figures import required_bytes, run_seconds
from vram_search.report.limits import Limits
from vram_search.report.trial_row import COLUMNS, trial_row
from vram_search.report.words import (
    hyperparameter_words,
    known_cell,
    loss_cell,
    needed_words,
    plan_words,
)
from vram_search.report.wrapping import wrapped
from vram_search.spec.hyperparameters import DIMENSIONS, MAIN, OTHERS
from vram_search.units import format_bytes, format_duration, format_small


@click.command("best", short_help="The best configuration found so far.")
@study_option
@click.option("--card", metavar="CARD", help="Only trials that fit this card, e.g. 'RTX 4060 8GB'.")
@click.option(
    "--limit",
    "--max-vram",
    "limit",
    metavar="SIZE",
    help="Only trials that need at most, e.g. '12 GiB'.",
)
@click.option(
    "--time-limit", metavar="TIME", help="Only trials that took at most, e.g. 30m or 1h30m."
)
@database_option
@json_option
@csv_option
def command(
    study: str | None,
    card: str | None,
    limit: str | None,
    time_limit: str | None,
    database: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """The complete trial with the lowest eval_loss, and the sweet spot.

    The sweet spot is the trial that needs the least VRAM among those whose eval_loss
    is within one standard error of the best.

    Limits judge a trial under the memory plan that it ran with; --card adds the margin of
    the prediction where the VRAM needed was not measured. Seconds are those of the device
    where the trial ran, probe and evaluations included.

    \b
    Examples:
      vram-search best
      vram-search best --card rtx-4060-8gb
      vram-search best --study td-010 --limit 12GiB --time-limit 30m --json
    """
    refuse_both(as_json, as_csv)
    with results_of(study, database) as results:
        answer = results.best(study, card=card, limit=limit, time_limit=time_limit)
    if as_json:
        print_json(answer.as_dict())
    elif as_csv:
        roles = (("best", answer.trial), ("sweet_spot", answer.sweet_spot.trial))
        print_csv(("role", *COLUMNS), ({"role": role, **trial_row(t)} for role, t in roles))
    else:
        echo("\n".join(answer_lines(answer)))
        if answer.night is not None:
            echo("\n".join(["", *night_lines(answer.night, "last run")]))


def answer_lines(answer: BestAnswer) -> list[str]:
    """The whole answer for a terminal."""
    words = Limits(**answer.limits.as_dict()).words
    winner = answer.winner
    lead = " ".join([winner.headline, *winner.sentences])
    return [
        *(wrapped(words, "") if words else []),
        *wrapped(lead, ""),
        "",
        *best_lines(answer, answer.trial),
        *sweet_spot_lines(answer),
        *_next_lines(answer),
    ]


def _next_lines(answer: BestAnswer) -> list[str]:
    """Commands that go on from here; imported runs have none."""
    if answer.is_imported:
        return []
    return [
        "next: vram-search export best     its YAML for LLaMA-Factory and others",
        "      vram-search samples best    answers of the untuned and the tuned model",
    ]


def best_lines(study: StudyAnswer, trial: TrialAnswer) -> list[str]:
    """The winner in words, a line each."""
    hp = trial.hyperparameters
    lines = [
        f"best of study {study.study}: trial {trial.number}, {trial.value_name} {trial.value:.4f} "
        f"(step {known_cell(trial.eval_loss_step)} of {trial.steps_total or '?'})",
    ]
    if trial.provenance is not None:
        settings = wrapped(hyperparameter_words(hp), f"  {'settings':<17}", " " * 19)
        return [*lines, *settings, *provenance_lines(trial.provenance)]
    lines += [
        *_hyperparameter_lines(hp),
        *_field("plan", plan_words(trial.plan)),
        *_field("VRAM needed", needed_words(trial, study)),
    ]
    if trial.bits_per_byte is not None:
        lines.append(f"  bits per byte  {trial.bits_per_byte:.4f}")
    if trial.adapter_path is not None:
        lines.append(f"  adapter        {trial.adapter_path}")
    return lines


def _hyperparameter_lines(hp: dict[str, Any]) -> list[str]:
    """A line each, but for the adapter's settings, which share one."""
    adapter = (d for d in DIMENSIONS if d.group == "adapter" and d.value_in(hp) != d.default)
    said = ", ".join(
        shown if d.kind == "categorical" else f"{d.heading} {shown}"
        for d, shown in ((d, d.shown(d.value_in(hp))) for d in adapter)
    )
    model = hp.get("model")
    lines = [*(_field("model", model) if model else []), *_field("lora", said)]
    for dimension in (*MAIN, *OTHERS):
        value = dimension.value_in(hp)
        if dimension.group == "training" and value != dimension.default:
            is_rate = dimension.name == "learning_rate"
            words = format_small(value, 3) if is_rate else dimension.shown(value)
            lines += _field(dimension.name, words)
    return lines


def sweet_spot_lines(answer: BestAnswer) -> list[str]:
    """The choice by the one-standard-error rule, and its reason."""
    trial = answer.sweet_spot.trial
    is_best = trial.number == answer.trial.number
    lines = ["sweet spot: the best itself" if is_best else f"sweet spot: trial {trial.number}"]
    lines += wrapped(answer.sweet_spot.why)
    if not is_best:
        size, origin = required_bytes(trial)
        needs = f"{format_bytes(size)} needed ({origin})" if size else "VRAM unknown"
        figures = f"{trial.value_name} {loss_cell(trial.value)}, {needs}"
        lines += wrapped(f"{figures}, {format_duration(run_seconds(trial))}")
        lines += wrapped(hyperparameter_words(trial.hyperparameters))
    if answer.is_imported:
        lines += wrapped(
            "imported runs: each eval_loss is its own tool's, over that run's evaluation rows"
        )
    return lines


def _field(name: str, text: str) -> list[str]:
    return wrapped(text, f"  {name:<14} ", " " * 17)
