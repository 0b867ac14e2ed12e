"""`trainer_state.json` and `all_results.json` of transformers' Trainer.

transformers `trainer_callback.py` (TrainerState.save_to_json), `trainer_pt_utils.py`
(save_metrics, save_state).
"""

from __future__ import annotations

import re
from typing import Any

from vram_search.errors import InputError
from vram_search.importing.fields import RunFields
from vram_search.importing.history import History
from vram_search.store import StepLoss

_EVAL_LOSS = re.compile(r"eval_(\w+_)?loss")


def parse_trainer_state(state: dict[str, Any], place: str) -> History:
    """The history in a `trainer_state.json`.

    Raises:
        InputError: a value has the wrong kind; names it.
    """
    fields = RunFields(state, place)
    history = History(
        last_step=fields.count("global_step") or 0, total_steps=fields.count("max_steps") or 0
    )
    entries = state.get("log_history")
    if entries is None:
        entries = []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(
            f"{place}: log_history: is not a list of objects", "restore the file as it was written"
        )
    named = _eval_loss_key(*entries)
    for position, entry in enumerate(entries):
        _add_entry(history, RunFields(entry, f"{place}: log_history[{position}]"), named)
    return history


def _eval_loss_key(*entries: dict[str, Any]) -> str:
    """The key of the evaluation's loss.

    Trainer writes the name of each evaluation set into it (`eval_alpaca_loss`) if they are named.
    Losses of several sets are not read.
    """
    keys = {key for entry in entries for key in entry if _EVAL_LOSS.fullmatch(str(key))}
    return keys.pop() if len(keys) == 1 else "eval_loss"


def _add_entry(history: History, entry: RunFields, eval_loss_key: str) -> None:
    step = entry.count("step") or 0
    history.last_step = max(history.last_step, step)
    loss, eval_loss = entry.loss("loss"), entry.loss(eval_loss_key)
    if loss is not None:
        history.losses[step] = StepLoss(
            step, loss, entry.loss("learning_rate"), entry.loss("grad_norm")
        )
    if eval_loss is not None:
        history.evaluations[step] = (eval_loss, entry.number_or_none("eval_runtime") or 0.0)
    _add_end(history, entry)
    history.has_rewards |= _has_rewards(entry)


def _has_rewards(entry: RunFields) -> bool:
    """TRL's preference trainers log `rewards/chosen`, `rewards/margins`, `eval_rewards/...`."""
    return any("rewards/" in key for key in entry.values if isinstance(key, str))


def _add_end(history: History, entry: RunFields) -> None:
    runtime = entry.number_or_none("train_runtime")
    if runtime is not None:
        history.ended = True
        history.train_runtime = runtime
        history.train_loss = entry.loss("train_loss")


def add_results(history: History, results: dict[str, Any], place: str) -> None:
    """Adds an `all_results.json`; its eval_loss is that of the last step.

    LLaMA-Factory evaluates once more after the training, and records that only in this file.

    Raises:
        InputError: a value has the wrong kind; names it.
    """
    fields = RunFields(results, place)
    _add_end(history, fields)
    history.has_rewards |= _has_rewards(fields)
    eval_loss = fields.loss(_eval_loss_key(results))
    if eval_loss is not None:
        history.evaluations[history.last_step] = (
            eval_loss,
            fields.number_or_none("eval_runtime") or 0.0,
        )
