"""`vram-search best`: the best configuration found so far. Imports neither torch nor Optuna."""

from __future__ import annotations

import click

from vram_search.cli.options import (
    database_option,
    find_study,
    json_option,
    opened,
    print_json,
    study_option,
)
from vram_search.errors import InputError
from vram_search.report.words import peak_words, plan_words, study_json, trial_json
from vram_search.store import StudyRecord, TrialRecord
from vram_search.units import format_bytes, parse_bytes


@click.command("best", short_help="The best configuration found so far.")
@study_option
@click.option("--max-vram", metavar="SIZE", help="Only trials that need at most, e.g. '12 GiB'.")
@database_option
@json_option
def command(study: str | None, max_vram: str | None, database: str | None, as_json: bool) -> None:
    """The complete trial with the lowest eval_loss.

    \b
    Examples:
      vram-search best
      vram-search best --study td-010 --max-vram 12GiB --json
    """
    limit = _parse_limit(max_vram)
    with opened(database) as store:
        record = find_study(store, study)
        found = store.top_trials(record.id, limit=1, max_required_bytes=limit)
        if not found:
            within = "" if limit is None else f" within {format_bytes(limit)}"
            raise InputError(
                f"study {record.name} has no complete trial{within} yet",
                "`vram-search top --all` lists what was tried",
            )
    if as_json:
        print_json({**study_json(record), "trial": trial_json(found[0])})
    else:
        click.echo("\n".join(best_lines(record, found[0])))


def _parse_limit(text: str | None) -> int | None:
    try:
        return None if text is None else parse_bytes(text)
    except ValueError as error:
        raise InputError(f"--max-vram: {error}") from None


def best_lines(study: StudyRecord, trial: TrialRecord) -> list[str]:
    """The winner in words, a line each."""
    hp = trial.hyperparameters
    lines = [
        f"best of study {study.name}: trial {trial.number}, eval_loss {trial.eval_loss:.4f} "
        f"(step {trial.eval_loss_step} of {trial.steps_total})",
        f"  learning_rate  {hp['learning_rate']:.3e}",
        f"  lora           {hp['lora_target']}, rank {hp['lora_rank']}, alpha {hp['lora_alpha']}",
        f"  cutoff_len     {hp['cutoff_len']}",
        f"  batch_size     {hp['batch_size']} ({plan_words(trial.plan)})",
        f"  optim          {hp['optim']}",
        f"  peak VRAM      {peak_words(trial, study)}",
    ]
    if trial.bits_per_byte is not None:
        lines.append(f"  bits per byte  {trial.bits_per_byte:.4f}")
    if trial.adapter_path is not None:
        lines.append(f"  adapter        {trial.adapter_path}")
    return lines
