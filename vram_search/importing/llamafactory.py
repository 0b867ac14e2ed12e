"""LLaMA-Factory's `trainer_log.jsonl` (LLaMA-Factory 0.9.5 `train/callbacks.py`, LogCallback)."""

from __future__ import annotations

from vram_search.errors import InputError
from vram_search.importing.fields import RunFields
from vram_search.importing.files import parse_json
from vram_search.importing.history import History
from vram_search.store import StepLoss
from vram_search.units import GIB

_MEASURED = {"vram_allocated": "allocated_bytes", "vram_reserved": "reserved_bytes"}
"""Peaks in GiB, logged where RECORD_VRAM is set."""


def parse_trainer_log(text: str, place: str) -> tuple[History, list[str]]:
    """The history in a log, and notes about it.

    A last line without its end was cut off with the process that wrote it: it is left out, with a
    note.

    Raises:
        InputError: another line is no JSON object, or a value has the wrong kind; names the line.
    """
    history, notes = History(), []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{place}, line {number}"
        try:
            entry = parse_json(line, where)
        except InputError:
            if number < len(lines):
                raise
            notes.append(f"line {number} of trainer_log.jsonl is cut off and was left out")
            continue
        # An evaluation or prediction alone counts its batches as steps, without an epoch.
        if "epoch" in entry:
            _add_line(history, RunFields(entry, where))
    return history, notes


def _add_line(history: History, line: RunFields) -> None:
    step = line.count("current_steps") or 0
    history.last_step = max(history.last_step, step)
    history.total_steps = line.count("total_steps") or history.total_steps
    loss, eval_loss = line.loss("loss"), line.loss("eval_loss")
    if loss is not None:
        rate = line.loss("lr")
        history.losses[step] = StepLoss(
            step, loss, line.loss("learning_rate") if rate is None else rate
        )
    if eval_loss is not None:
        history.evaluations[step] = (eval_loss, 0.0)
    # `accuracy` is `rewards/accuracies`; an accuracy of tokens is not logged here.
    history.has_rewards |= line.has("accuracy")
    for key, name in _MEASURED.items():
        gib = line.number_or_none(key)
        if gib is not None:
            history.measured[name] = max(history.measured.get(name, 0), round(gib * GIB))
