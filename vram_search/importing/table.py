"""A table by hand: a CSV file with one run per row."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from vram_search.errors import InputError
from vram_search.importing.cell_numbers import in_seconds, name_and_unit, plain_number
from vram_search.importing.exported_table import (
    export_of,
    has_unnamed_loss,
    header_word,
    is_by_hand,
    lacks_loss,
    our_rows,
)
from vram_search.importing.exports import BY_HAND, Export
from vram_search.importing.fields import RunFields
from vram_search.importing.folder import imported_trial
from vram_search.importing.history import History
from vram_search.importing.kind import read_stage
from vram_search.importing.settings import Settings, read_settings
from vram_search.importing.table_rows import Cells, table_rows
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.store import OUTCOMES, ImportedTrial, Outcome
from vram_search.typed_fields import FieldError
from vram_search.units import parse_bytes

COLUMNS = {
    "run": "name of the run, each once; required",
    "outcome": f"{', '.join(OUTCOMES)}; required",
    "model_name_or_path": "hub name or folder",
    "eval_loss": "nats per token, as the tool printed it",
    "train_loss": "mean over the training",
    "steps_done": "optimizer steps done",
    "steps_total": "optimizer steps planned",
    **{dimension.name: dimension.meaning for dimension in DIMENSIONS},
    "per_device_train_batch_size": "rows of a micro-batch",
    "gradient_accumulation_steps": "micro-batches a step",
    "seed": "whole number",
    "train_runtime": "seconds",
    "trainable_parameters": "whole number",
    "adapter_bytes": "size of the adapter, e.g. 7.05 MB",
    "reserved_bytes": "peak of torch's reserved bytes, e.g. 5.8 GiB",
    "vram_bytes": "VRAM as somebody read it, counter unknown",
    "device": "the GPU's name",
    "stage": "sft, dpo, kto, rm, pt, ...; empty: sft",
    "finetuning_type": "lora, full, freeze, ...; empty: lora",
    "source": "where the figures come from",
    "note": "a sentence",
}
"""Column -> what it holds. An empty cell is unknown; other columns are refused."""

_ADAPTER = {"use_dora", "use_rslora", "modules_to_save"}
_TRUTH = {"wahr": True, "falsch": False, "vrai": True, "faux": False}
"""Excel's TRUE and FALSE in other languages."""


def load_table(path: Path) -> list[ImportedTrial]:
    """The runs of a table in its order: CSV or Markdown.

    The header is of COLUMNS, that of an export (`exported_table.EXPORTS`), or has names of other
    tools. A cell of the last two that cannot be read is unknown, with a note.

    Raises:
        InputError: the file cannot be read, or a header or cell is wrong; names the line.
    """
    header, rows = table_rows(path)
    if (export := export_of(header)) is not None:
        return _exported(path, export, rows)
    units = {name: name_and_unit(name) for name in header}
    words = [header_word(word) for word, _ in units.values()]
    if is_by_hand(words):
        plain = [(line, _plain_cells(row, units)) for line, row in rows]
        return _exported(path, BY_HAND, plain)
    if has_unnamed_loss(words):
        raise InputError(
            f"{path}, line 1: 'loss' may be of the training or of an evaluation",
            "name the column train_loss or eval_loss",
        )
    if lacks_loss(words):
        raise InputError(
            f"{path}, line 1: no column is known to hold the loss of an evaluation",
            "expected columns: run, eval_loss (or eval/loss, val_loss), and settings such as "
            "learning_rate and lora_rank; rename the loss's column",
        )
    _check_header(path, header)
    seen: dict[str, int] = {}
    trials = []
    for line, cells in rows:
        trial = _trial(path, line, cells)
        name = trial.provenance["run"]
        if name in seen:
            raise InputError(
                f"{path}, line {line}: run: {name!r} stands in line {seen[name]} already",
                "give every run a name of its own",
            )
        seen[name] = line
        trials.append(trial)
    if not trials:
        raise InputError(f"{path}: holds no run", "write one row per run under the header")
    return trials


def _exported(path: Path, export: Export, rows: list[tuple[int, Cells]]) -> list[ImportedTrial]:
    trials = [
        _lenient_trial(path, line, cells, export.source, notes)
        for line, cells, notes in our_rows(export, rows)
    ]
    if not trials:
        raise InputError(f"{path}: holds no run", "export the table with its runs")
    return trials


def _plain_cells(row: Cells, units: Mapping[str, tuple[str, str]]) -> Cells:
    """Cells under the names without units, numbers in their plain form and times in seconds."""
    return {
        header_word(units[name][0]): in_seconds(plain_number(cell), units[name][1])
        for name, cell in row.items()
    }


def _lenient_trial(
    path: Path, line: int, cells: Cells, source: str, notes: list[str]
) -> ImportedTrial:
    """A trial without the cells that cannot be read."""
    try:
        return _trial(path, line, cells, source, notes)
    except FieldError as error:
        left = {name: cell for name, cell in cells.items() if name != error.field}
        if len(left) == len(cells):
            raise
        note = f"{error.field} {error.problem}, so it is taken as unknown"
        return _lenient_trial(path, line, left, source, [*notes, note])


def _check_header(path: Path, header: list[str]) -> None:
    for name in header:
        if name not in COLUMNS or header.count(name) > 1:
            what = "stands twice" if name in COLUMNS else "is not a known column"
            raise InputError(
                f"{path}, line 1: {name!r} {what}", f"known columns: {', '.join(COLUMNS)}"
            )
    missing = [name for name in ("run", "outcome") if name not in header]
    if missing:
        raise InputError(
            f"{path}, line 1: the column {missing[0]} is missing",
            f"the header names some of: {', '.join(COLUMNS)}",
        )


def _trial(
    path: Path, line: int, cells: Cells, source: str = "csv", notes: Sequence[str] = ()
) -> ImportedTrial:
    fields = RunFields(cells, f"{path}, line {line}")
    name = fields.label("run")
    if name is None:
        raise fields.refused("run", "is missing", "give the run a name")
    settings = Settings()
    read_settings(settings, fields)
    settings.know("batch_size", fields.count("batch_size", least=1))
    for key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if key in cells:
            settings.kept[key] = fields.count(key, least=1)
    read_stage(settings.kind, fields, "llamafactory")
    settings.kind.add_adapter({key: _parsed(cells[key]) for key in _ADAPTER & cells.keys()})
    history = _history(fields)
    reported: dict[str, Any] = {
        key: value for key in ("adapter_bytes", "vram_bytes") if (value := _bytes(fields, key))
    }
    if history.train_loss is not None and math.isfinite(history.train_loss):
        reported["train_loss"] = history.train_loss
    trial = imported_trial(
        source=source,
        path=str(path.resolve()),
        run=name,
        settings=settings,
        history=history,
        reported=reported,
        notes=[*notes, *(note for key in ("source", "note") if (note := fields.label(key)))],
        files=[path.name],
        fingerprint=_fingerprint(cells),
    )
    return _as_written(trial, fields)


def _as_written(trial: ImportedTrial, fields: RunFields) -> ImportedTrial:
    """The outcome and what else a person knows better than the logs."""
    outcome = _outcome(fields)
    result = trial.result
    error = None
    if outcome not in ("complete", "pruned"):
        error = {"stage": "train", "step": result.steps_done, "message": fields.label("note") or ""}
    return replace(
        trial,
        result=replace(
            result,
            outcome=outcome,
            error=error,
            trainable_parameters=fields.count("trainable_parameters")
            or result.trainable_parameters,
            device=fields.label("device"),
        ),
    )


def _history(fields: RunFields) -> History:
    done, total = fields.count("steps_done") or 0, fields.count("steps_total") or 0
    eval_loss, reserved = fields.loss("eval_loss"), _bytes(fields, "reserved_bytes")
    return History(
        evaluations={} if eval_loss is None else {done: (eval_loss, 0.0)},
        last_step=done,
        total_steps=total,
        train_runtime=fields.number_or_none("train_runtime"),
        train_loss=fields.loss("train_loss"),
        measured={"reserved_bytes": reserved} if reserved else {},
    )


def _outcome(fields: RunFields) -> Outcome:
    written = fields.label("outcome")
    for outcome in OUTCOMES:
        if outcome == written:
            return outcome
    what = "is missing" if written is None else "is not an outcome"
    raise fields.refused("outcome", what, f"write one of: {', '.join(OUTCOMES)}")


def _bytes(fields: RunFields, key: str) -> int | None:
    text = fields.label(key)
    try:
        return None if text is None else parse_bytes(text)
    except ValueError:
        raise fields.refused(key, "is not a size", "write it like 7.05 MB or 3 GiB") from None


def _parsed(cell: str) -> Any:
    """A cell's value: true, a list, or the text itself."""
    if cell.lower() in _TRUTH:
        return _TRUTH[cell.lower()]
    try:
        return yaml.safe_load(cell)
    except (yaml.YAMLError, ValueError, RecursionError):
        return cell


def _fingerprint(cells: dict[str, str]) -> str:
    """Returns a hash of the filled cells. Other rows, empty columns and order do not count."""
    text = json.dumps(cells, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
