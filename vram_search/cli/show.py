"""`vram-search show N`: all that is known of one trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from vram_search.answers.show import EvaluationAnswer, ShowAnswer, StepLossAnswer
from vram_search.answers.trial import TrialAnswer
from vram_search.cli.console import can_print, echo
from vram_search.cli.csv_output import csv_option, print_figures, refuse_both
from vram_search.cli.last_night import night_lines
from vram_search.cli.options import (
    database_option,
    json_option,
    print_json,
    results_of,
    study_option,
)
from vram_search.importing.words import provenance_lines
from vram_search.report.figures import run_seconds
from vram_search.report.trial_bytes import byte_lines, oom_lines
from vram_search.report.words import (
    error_words,
    hyperparameter_words,
    loss_cell,
    phase_word,
    plan_words,
)
from vram_search.report.wrapping import wrapped
from vram_search.units import format_bytes, format_duration

_BLOCKS = " ▁▂▃▄▅▆▇█"
_LETTERS = " _.-~=+*#"
"""The same heights for an output that takes no block characters, as Windows' code pages."""
_SPARKLINE_WIDTH = 60
_LEAST_SECONDS = 0.05
"""A shorter phase would be printed as 0.0 s."""


@click.command("show", short_help="All that is known of one trial.")
@click.argument("trial", metavar="N|best")
@study_option
@database_option
@json_option
@csv_option
def command(
    trial: str, study: str | None, database: str | None, as_json: bool, as_csv: bool
) -> None:
    """Settings, plan, losses, seconds and bytes of trial N.

    \b
    Examples:
      vram-search show 7
      vram-search show best --json
    """
    refuse_both(as_json, as_csv)
    with results_of(study, database) as results:
        answer = results.show(trial, study)
    if as_json:
        print_json(answer.as_dict())
        return
    if as_csv:
        print_figures(_figures(answer))
        return
    found = answer.trial
    lines = [
        *_head(answer),
        *_losses(answer.step_losses, answer.evaluations),
        *byte_lines(answer, found),
        *_step_time(found),
        *oom_lines(found.error or {}),
        *_card(found.measured or {}),
        *_tail(found),
    ]
    if answer.night is not None:
        lines += ["", *night_lines(answer.night, "the run that started it")]
    echo("\n".join(lines))


def _figures(answer: ShowAnswer) -> dict[str, Any]:
    """The trial's fields and its losses, for CSV."""
    known = answer.as_dict()
    losses = {name: known[name] for name in ("step_losses", "evaluations")}
    return {"study": answer.study, **known["trial"], **losses}


def _head(answer: ShowAnswer) -> list[str]:
    trial = answer.trial
    outcome = trial.outcome or f"running ({trial.stage or 'plan'})"
    lines = [
        f"trial {trial.number} of study {answer.study}: {outcome}",
        *([f"  {answer.repeats}"] if answer.repeats else []),
        *_field("settings", hyperparameter_words(trial.hyperparameters)),
        *provenance_lines(trial.provenance),
    ]
    if trial.provenance is None:
        lines += _field("plan", plan_words(trial.plan))
    if trial.trainable_parameters:
        lines.append(f"  trainable        {trial.trainable_parameters:,} parameters")
    error = trial.error or {}
    if words := error_words(trial):
        lines += _field("why", words)
    if shape := error.get("batch_shape"):
        lines += _field(
            "where", f"step {error.get('step')}, batch of {shape[0]} x {shape[1]} tokens"
        )
    if remedy := error.get("remedy"):
        lines += _field("remedy", remedy)
    return lines


def _field(name: str, text: str) -> list[str]:
    """A named text, wrapped to the terminal."""
    return wrapped(text, f"  {name:<17}", " " * 19)


def _losses(steps: list[StepLossAnswer], evaluations: list[EvaluationAnswer]) -> list[str]:
    lines = []
    if steps:
        losses = [step.loss for step in steps]
        lines.append(f"  train loss       {sparkline(losses)} {loss_cell(losses[-1])}")
    for evaluation in evaluations:
        own = evaluation.own_cutoff_eval_loss
        words = f"{loss_cell(evaluation.eval_loss)} per token"
        if (bits := evaluation.bits_per_byte) is not None:
            words += f", {bits:.4f} bits per byte"
        words += f", {own:.4f} at its own cutoff_len" if own is not None else ""
        name = f"eval at step {evaluation.step}" if evaluation.step else "evaluation"
        lines += _field(name, words)  # an imported table names no step
    return lines


def _step_time(trial: TrialAnswer) -> list[str]:
    """Seconds of an optimizer step: as the planner predicted them, and as they were."""
    seconds = [
        (trial.predicted or {}).get("step_seconds"),
        (trial.measured or {}).get("step_seconds"),
    ]
    words = [
        f"{value:.3g} s {origin}"
        for value, origin in zip(seconds, ("predicted", "measured"), strict=True)
        if value is not None
    ]
    return _field("optimizer step", ", ".join(words)) if words else []


def _card(measured: Mapping[str, Any]) -> list[str]:
    """NVML's readings of the card, and the bytes that the trial left allocated."""
    words = [
        form.format(measured[name])
        for name, form in {
            "utilization_percent": "{:.0f} % busy",
            "power_watts": "{:.0f} W",
            "temperature_celsius": "at most {} °C",
            "sm_clock_mhz": "SM clock {:.0f} MHz",
            "least_sm_clock_mhz": "least {} MHz",
        }.items()
        if measured.get(name) is not None
    ]
    lines = _field("card", ", ".join(words)) if words else []
    if survivors := measured.get("survivors"):
        left = format_bytes(measured.get("leaked_bytes"))
        lines += _field("leak", f"{left} left behind: {'; '.join(survivors)}")
    return lines


def _tail(trial: TrialAnswer) -> list[str]:
    lines = []
    seconds = {phase: value for phase, value in (trial.seconds or {}).items() if value}
    if seconds:
        spent = ", ".join(
            f"{phase_word(phase)} {format_duration(value)}"
            for phase, value in seconds.items()
            if value >= _LEAST_SECONDS
        )
        total = format_duration(run_seconds(trial))
        lines += _field("time", f"{total} ({spent})" if spent else total)
    if trial.device:
        versions = ", ".join(f"{name} {v}" for name, v in (trial.versions or {}).items())
        where = f"{trial.device} of {trial.host}" if trial.host else trial.device
        lines += _field("ran on", f"{where}; {versions}".removesuffix("; "))
    if trial.provenance is None:
        lines.append(f"  seed, data       {trial.seed}, {trial.data_hash}")
    if trial.adapter_path:
        lines.append(f"  adapter          {trial.adapter_path}")
    return lines


def sparkline(values: Sequence[float | None]) -> str:
    """A curve in block characters, at most 60 wide; gaps where a value is not finite."""
    blocks = _BLOCKS if can_print(_BLOCKS) else _LETTERS
    stride = max(1, -(-len(values) // _SPARKLINE_WIDTH))
    picked = values[::stride]
    finite = [value for value in picked if value is not None]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(blocks) - 2) / (high - low) if high > low else 0.0
    return "".join(
        " " if value is None else blocks[1 + round((value - low) * scale)] for value in picked
    )
