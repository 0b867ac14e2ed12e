"""The table of all experiments: cells with what they sort by, and the page's data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from vram_search.report.figures import required_bytes, run_seconds
from vram_search.report.page.scales import short_number
from vram_search.report.words import error_words, kind_words, loss_cell, repeat_words
from vram_search.spec.hyperparameters import MAIN, Dimension
from vram_search.store import TrialRecord
from vram_search.units import GIB, format_duration


class Column(NamedTuple):
    """A column's heading and what it means; `is_further`: hidden until the reader asks for it."""

    name: str
    meaning: str
    is_number: bool = True
    is_further: bool = False


class Cell(NamedTuple):
    """Shown text and the value it is sorted by; None (unknown) sorts last."""

    words: str
    value: float | str | None


def columns(
    dimensions: Sequence[Dimension], *, is_imported: bool, objective: str = "eval_loss"
) -> tuple[Column, ...]:
    """The table's columns; imported runs have their run's and model's name too.

    Args:
        objective: bits per byte are hidden at first unless trials are ranked by them.
    """
    names = (
        Column("run", "the imported run's name", is_number=False),
        Column("model", "the base model", is_number=False),
    )
    return (
        Column("#", "the trial's number"),
        *(names if is_imported else ()),
        Column("outcome", "what came of it", is_number=False),
        Column("eval_loss", "best checkpoint, nats per token"),
        Column(
            "bits/byte",
            "best checkpoint, bits per byte of the answers",
            is_further=objective != "bits_per_byte",
        ),
        *(Column(one.heading, one.name, not one.is_name) for one in dimensions),
        Column("needed GiB", "VRAM needed, GiB; ~ predicted"),
        Column("reserved GiB", "measured peak of reserved bytes, GiB", is_further=True),
        Column("steps", "optimizer steps done", is_further=True),
        Column("time", "from start to record"),
        Column("note", "its kind, what it repeats, what ended it", is_number=False),
    )


def trial_row(
    trial: TrialRecord,
    earlier: TrialRecord | None = None,
    dimensions: Sequence[Dimension] = MAIN,
    *,
    is_imported: bool,
) -> dict[str, Any]:
    """A row: number, outcome and cells in the order of `columns`.

    Args:
        earlier: the trial that this one repeats.
    """
    hp = trial.hyperparameters
    needed, origin = required_bytes(trial)
    reserved = (trial.measured or {}).get("reserved_bytes")
    seconds = None if trial.outcome == "infeasible" else run_seconds(trial)  # it never ran
    outcome = trial.outcome or "running"
    said = (kind_words(trial), repeat_words(trial, earlier), error_words(trial))
    note = "; ".join(filter(None, said))
    cells = [
        Cell(str(trial.number), trial.number),
        Cell(outcome, outcome),
        Cell(loss_cell(trial.eval_loss), trial.eval_loss),
        Cell(loss_cell(trial.bits_per_byte), trial.bits_per_byte),
        *(_cell(one, one.value_in(hp)) for one in dimensions),
        _gib(needed, "~" if origin == "predicted" else ""),
        _gib(reserved),
        Cell(f"{trial.steps_done}/{trial.steps_total}", trial.steps_done),
        Cell(format_duration(seconds), seconds),
        Cell(note, note or None),
    ]
    if is_imported:
        run = trial.provenance or {}
        model = run.get("model") or {}
        cells[1:1] = [_name(run.get("run")), _name(model.get("name"))]
    return {"number": trial.number, "outcome": outcome, "cells": cells}


def trial_data(trial: TrialRecord) -> dict[str, Any]:
    """For the page's script, and for anyone who reads the file by machine."""
    size, origin = required_bytes(trial)
    return {
        "number": trial.number,
        "outcome": trial.outcome or "running",
        "eval_loss": trial.eval_loss,
        "hyperparameters": trial.hyperparameters,
        "required_bytes": size,
        "required_bytes_origin": None if size is None else origin,
    }


def _cell(dimension: Dimension, value: Any) -> Cell:
    if dimension.is_name:
        return _name(value if value is None else dimension.shown(value))
    if not isinstance(value, int | float):
        return Cell("-", None)
    is_formatted = dimension.form != "{}"
    return Cell(dimension.shown(value) if is_formatted else short_number(value), value)


def _name(value: Any) -> Cell:
    return Cell("-", None) if value is None else Cell(str(value), str(value))


def _gib(size: int | None, mark: str = "") -> Cell:
    return Cell("-", None) if size is None else Cell(f"{mark}{size / GIB:.2f}", size)
