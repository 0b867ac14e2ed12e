"""`vram-search import PATH`: runs made elsewhere, into a study of their own."""

from __future__ import annotations

from pathlib import Path

import click

from vram_search.cli.console import echo
from vram_search.cli.options import NamedPath, database_option, json_option, print_json
from vram_search.errors import InputError
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.spec.name_rule import NAME_FORM, is_valid_name

DEFAULT_STUDY = "imported"

_HELP = """Imports runs of LLaMA-Factory, Axolotl, TRL or a plain Trainer, or a table.

PATH is a run's output folder (complete or not), a checkpoint, a folder of such folders at any
depth, or a table (CSV, Markdown). Values that a run's files do not hold stay unknown.
Importing again adds only what is new, and updates what this version reads differently. If one
run is malformed, nothing is imported; folders of predictions are skipped. Imported runs never
mix with a search: they are kept in a study of their own, which cannot be run.
training_args.bin is never read.

DPO, KTO, reward models, pre-training, full and freeze tuning are listed with their kind. They
are not ranked, and no search learns from them.

A table is an export of W&B, MLflow, Optuna, Ray Tune, Comet or Neptune, a table with trainers'
names (lr, lora_r, val_loss), or a table with one run per row under a header with the columns run
and outcome (complete, pruned, oom, infeasible, diverged, lost, unknown) and any of
model_name_or_path, eval_loss, train_loss, steps_done, steps_total, per_device_train_batch_size,
gradient_accumulation_steps, seed, train_runtime (seconds), trainable_parameters, adapter_bytes,
reserved_bytes, vram_bytes ("3.1 GB", counter unknown), device, stage, finetuning_type, source,
note, {hyperparameters}. An empty cell is unknown.

\b
Examples:
  vram-search import saves/Qwen2.5-3B/lora/my-run
  vram-search import saves --study before-the-search
  vram-search import studies/td-010/experiments.csv --study td-010-report
"""


@click.command(
    "import",
    short_help="Add runs made elsewhere.",
    help=_HELP.format(hyperparameters=", ".join(one.name for one in DIMENSIONS)),
)
@click.argument("path", type=NamedPath(path_type=Path))
@click.option(
    "--study",
    metavar="NAME",
    default=DEFAULT_STUDY,
    show_default=True,
    help="Study of imported runs; created if it is missing.",
)
@database_option
@json_option
def command(path: Path, study: str, database: str | None, as_json: bool) -> None:
    from vram_search.importing.load import load_runs
    from vram_search.store import open_store
    from vram_search.store.location import database_url

    if not is_valid_name(study):
        raise InputError(f"--study {study!r} is not a study's name", NAME_FORM)
    runs, predictions = load_runs(path)
    store = open_store(database_url(database), create=True)
    try:
        added, updated = store.import_trials(study, runs)
    finally:
        store.close()
    known = len(runs) - len(added)
    if as_json:
        found = {"study": study, "added": added, "already_there": known, "updated": updated}
        print_json(found | {"predictions": [str(folder) for folder in predictions]})
        return
    said = f", {len(updated)} of them updated" if updated else ""
    echo(f"study {study}: {len(added)} added, {known} there already{said}")
    if predictions:
        echo(f"skipped, a prediction and no training: {', '.join(map(str, predictions))}")
    echo(f"see them: vram-search top --all --study {study}")
