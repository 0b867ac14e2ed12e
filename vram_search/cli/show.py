"""`vram-search show N`: all that is known of one trial."""

from __future__ import annotations

from typing import Any

import click

from vram_search.cli.options import (
    database_option,
    find_study,
    find_trial,
    json_option,
    opened,
    print_json,
    study_option,
)
from vram_search.report.words import (
    card_title,
    error_words,
    hyperparameter_words,
    loss_cell,
    plan_words,
    run_seconds,
    study_json,
    trial_json,
)
from vram_search.store import Evaluation, StepLoss, StudyRecord, TrialRecord
from vram_search.units import format_bytes, format_duration

_BLOCKS = " ▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 60


@click.command("show", short_help="All that is known of one trial.")
@click.argument("trial", metavar="N|best")
@study_option
@database_option
@json_option
def command(trial: str, study: str | None, database: str | None, as_json: bool) -> None:
    """Hyperparameters, plan, losses, seconds and bytes of trial N.

    \b
    Examples:
      vram-search show 7
      vram-search show best --json
    """
    with opened(database) as store:
        record = find_study(store, study)
        found = find_trial(store, record, trial)
        steps, evaluations = store.step_losses(found.id), store.evaluations(found.id)
    if as_json:
        print_json(
            {
                **study_json(record),
                "trial": trial_json(found),
                "step_losses": [vars(step) for step in steps],
                "evaluations": [vars(evaluation) for evaluation in evaluations],
            }
        )
        return
    lines = [*_head(record, found), *_losses(steps, evaluations), *_bytes(record, found)]
    click.echo("\n".join([*lines, *_tail(found)]))


def _head(study: StudyRecord, trial: TrialRecord) -> list[str]:
    outcome = trial.outcome or f"running ({trial.stage or 'plan'})"
    repeated = f", repeats trial {trial.retry_of}" if trial.retry_of is not None else ""
    lines = [
        f"trial {trial.number} of study {study.name}: {outcome}{repeated}",
        f"  hyperparameters  {hyperparameter_words(trial.hyperparameters)}",
        f"  plan             {plan_words(trial.plan)}",
    ]
    if trial.trainable_parameters:
        lines.append(f"  trainable        {trial.trainable_parameters:,} parameters")
    if words := error_words(trial):
        lines.append(f"  why              {words}")
    if remedy := (trial.error or {}).get("remedy"):
        lines.append(f"  remedy           {remedy}")
    return lines


def _losses(steps: list[StepLoss], evaluations: list[Evaluation]) -> list[str]:
    lines = []
    if steps:
        losses = [step.loss for step in steps]
        lines.append(f"  train loss       {sparkline(losses)} {loss_cell(losses[-1])}")
    for evaluation in evaluations:
        own = evaluation.own_cutoff_eval_loss
        lines.append(
            f"  eval at step {evaluation.step:<4} {loss_cell(evaluation.eval_loss)} per token"
            f", {loss_cell(evaluation.bits_per_byte)} bits per byte"
            + (f", {own:.4f} at its own cutoff_len" if own is not None else "")
        )
    return lines


def _bytes(study: StudyRecord, trial: TrialRecord) -> list[str]:
    predicted, measured = trial.predicted or {}, trial.measured or {}
    if not predicted:
        return []
    lines = [f"  bytes            {'predicted':>12} {'measured':>12}"]
    for name in ("allocated_bytes", "reserved_bytes", "required_bytes", "process_bytes"):
        if predicted.get(name) is None and measured.get(name) is None:
            continue
        lines.append(
            f"    {name:<15}{format_bytes(predicted.get(name)):>12} "
            f"{format_bytes(measured.get(name)):>12}"
        )
    lines += _verdict(predicted)
    lines.append(f"    predicted for {card_title(study)}, by part:")
    for part, size in predicted.get("parts", {}).items():
        lines.append(f"      {part:<19}{format_bytes(size):>12}")
    return lines


def _verdict(predicted: dict[str, Any]) -> list[str]:
    """Required bytes with the margin that held when the trial was planned, beside the budget."""
    if "margin" not in predicted:
        return []
    needed = predicted["required_bytes"] * (1 + predicted["margin"])
    place = "above" if predicted["excess"] > 0 else "within"
    return [
        f"    required with a margin of {predicted['margin']:.1%}: {format_bytes(needed)}, "
        f"{place} the budget of {format_bytes(predicted['budget_bytes'])}"
    ]


def _tail(trial: TrialRecord) -> list[str]:
    lines = []
    seconds = {phase: value for phase, value in (trial.seconds or {}).items() if value}
    if seconds:
        spent = ", ".join(f"{phase} {format_duration(value)}" for phase, value in seconds.items())
        lines.append(f"  time             {format_duration(run_seconds(trial))} ({spent})")
    if trial.device:
        versions = ", ".join(f"{name} {v}" for name, v in (trial.versions or {}).items())
        lines.append(f"  ran on           {trial.device}; {versions}")
    lines.append(f"  seed, data       {trial.seed}, {trial.data_hash}")
    if trial.adapter_path:
        lines.append(f"  adapter          {trial.adapter_path}")
    return lines


def sparkline(values: list[float | None]) -> str:
    """A curve in block characters, at most 60 wide; gaps where a value is not finite."""
    stride = max(1, -(-len(values) // _SPARKLINE_WIDTH))
    picked = values[::stride]
    finite = [value for value in picked if value is not None]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(_BLOCKS) - 2) / (high - low) if high > low else 0.0
    return "".join(
        " " if value is None else _BLOCKS[1 + round((value - low) * scale)] for value in picked
    )
