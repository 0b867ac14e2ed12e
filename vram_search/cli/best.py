"""`vram-search best`: the best configuration found so far. Imports neither torch nor Optuna."""

from __future__ import annotations

from typing import Any

import click

from vram_search.answers.lookup import find_study, opened
from vram_search.cli.csv_output import csv_option, print_csv, refuse_both
from vram_search.cli.options import database_option, json_option, print_json, study_option
from vram_search.errors import InputError
from vram_search.importing.words import provenance_lines
from vram_search.report.figures import required_bytes, run_seconds, study_json, trial_json
from vram_search.report.limits import Limits
from vram_search.report.sweet_spot import Contender, SweetSpot, find_sweet_spot
from vram_search.report.trial_row import COLUMNS, trial_row
from vram_search.report.words import (
    hyperparameter_words,
    known_cell,
    loss_cell,
    peak_words,
    plan_words,
    wrapped,
)
from vram_search.store import StudyRecord, TrialRecord
from vram_search.store.losses import best_example_losses
from vram_search.units import format_bytes, format_duration, parse_bytes, parse_duration


@click.command("best", short_help="The best configuration found so far.")
@study_option
@click.option("--card", metavar="SLUG", help="Only trials that fit this card of configs/cards.")
@click.option(
    "--limit",
    "--max-vram",
    "limit",
    metavar="SIZE",
    help="Only trials that require at most, e.g. '12 GiB'.",
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

    The sweet spot is the trial that requires the fewest bytes among those whose eval_loss
    is within one standard error of the best.

    Limits judge a trial under the memory plan that it ran with; --card adds the margin of
    the prediction where required bytes were not measured. Seconds are those of the device
    where the trial ran, probe and evaluations included.

    \b
    Examples:
      vram-search best
      vram-search best --card rtx-4060-8gb
      vram-search best --study td-010 --limit 12GiB --time-limit 30m --json
    """
    refuse_both(as_json, as_csv)
    limits = parse_limits(card, limit, time_limit)
    with opened(database) as store:
        record = find_study(store, study)
        trials = store.top_trials(record.id)
        sums = best_example_losses(store, record.id)
    spot = find_sweet_spot((trial for trial in trials if limits.admits(trial)), sums)
    if spot is None:
        raise none_complete(record, trials, limits)
    if as_json:
        print_json(_as_dict(record, spot, limits))
    elif as_csv:
        roles = (("best", spot.best), ("sweet_spot", spot.trial))
        print_csv(("role", *COLUMNS), ({"role": role, **trial_row(t)} for role, t in roles))
    else:
        lines = best_lines(record, spot.best)
        if limits.words:
            lines[0:0] = wrapped(limits.words, "")
        click.echo("\n".join([*lines, *sweet_spot_lines(record, spot)]))


def parse_limits(card: str | None, limit: str | None, time_limit: str | None) -> Limits:
    """The limits that options set.

    Raises:
        InputError: a size or duration is none, or the card is unknown.
    """
    title, budget_bytes = _budget(card) if card is not None else (None, None)
    try:
        size = None if limit is None else parse_bytes(limit)
    except ValueError as error:
        raise InputError(f"--limit: {error}") from None
    try:
        seconds = None if time_limit is None else parse_duration(time_limit)
    except ValueError as error:
        raise InputError(f"--time-limit: {error}") from None
    return Limits(size, title, budget_bytes, seconds)


def _budget(slug: str) -> tuple[str, int]:
    """A shipped card's title and what it leaves to the allocator."""
    from vram_search.answers.named import find_card
    from vram_search.estimate.memory_budget import card_memory

    card = find_card(slug)
    return card.label, card_memory(card).budget_bytes


def none_complete(study: StudyRecord, trials: list[TrialRecord], limits: Limits) -> InputError:
    """Why there is no answer, and what comes closest."""
    within = f" {limits.words}" if limits.words else ""
    remedy = "`vram-search top --all` lists what was tried"
    if limits.words and (least := limits.least_words(trials)):
        remedy = f"its complete trials need at least {least}"
    return InputError(f"study {study.name} has no complete trial{within} yet", remedy)


def best_lines(study: StudyRecord, trial: TrialRecord) -> list[str]:
    """The winner in words, a line each."""
    hp = trial.hyperparameters
    lines = [
        f"best of study {study.name}: trial {trial.number}, eval_loss {trial.eval_loss:.4f} "
        f"(step {known_cell(trial.eval_loss_step)} of {trial.steps_total or '?'})",
    ]
    if trial.provenance is not None:
        said = f"  hyperparameters  {hyperparameter_words(hp)}"
        return [*lines, said, *provenance_lines(trial.provenance)]
    lines += [
        f"  learning_rate  {hp['learning_rate']:.3e}",
        *_field("lora", f"{hp['lora_target']}, rank {hp['lora_rank']}, alpha {hp['lora_alpha']}"),
        f"  cutoff_len     {hp['cutoff_len']}",
        *_field("batch_size", f"{hp['batch_size']} ({plan_words(trial.plan)})"),
        f"  optim          {hp['optim']}",
        *_field("peak VRAM", peak_words(trial, study)),
    ]
    if trial.bits_per_byte is not None:
        lines.append(f"  bits per byte  {trial.bits_per_byte:.4f}")
    if trial.adapter_path is not None:
        lines.append(f"  adapter        {trial.adapter_path}")
    return lines


def sweet_spot_lines(study: StudyRecord, spot: SweetSpot) -> list[str]:
    """The choice by the one-standard-error rule, and why."""
    trial = spot.trial
    is_best = trial.number == spot.best.number
    lines = ["sweet spot: the best itself" if is_best else f"sweet spot: trial {trial.number}"]
    lines += wrapped(spot.why)
    if not is_best:
        size, origin = required_bytes(trial)
        needs = f"{format_bytes(size)} required ({origin})" if size else "VRAM unknown"
        figures = f"eval_loss {loss_cell(trial.eval_loss)}, {needs}"
        lines += wrapped(f"{figures}, {format_duration(run_seconds(trial))}")
        lines += wrapped(hyperparameter_words(trial.hyperparameters))
    if study.is_imported:
        lines += wrapped(
            "imported runs: each eval_loss is its own tool's, over that run's evaluation rows"
        )
    return lines


def _field(name: str, text: str) -> list[str]:
    return wrapped(text, f"  {name:<15}", " " * 17)


def _as_dict(study: StudyRecord, spot: SweetSpot, limits: Limits) -> dict[str, Any]:
    return {
        **study_json(study),
        "limits": limits.as_dict(),
        "trial": trial_json(spot.best),
        "sweet_spot": {
            "trial": trial_json(spot.trial),
            "why": spot.why,
            "within": [_contender(item) for item in spot.within],
        },
    }


def _contender(item: Contender) -> dict[str, Any]:
    size, origin = required_bytes(item.trial)
    return {
        "number": item.trial.number,
        "eval_loss": item.trial.eval_loss,
        "difference": item.difference,
        "standard_error": item.standard_error,
        "required_bytes": size,
        "required_bytes_origin": None if size is None else origin,
        "seconds": run_seconds(item.trial),
    }
