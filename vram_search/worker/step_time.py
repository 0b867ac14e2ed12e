"""Corrects a device's predicted step times by those measured in the study's trials on it.

The correction is computed from the record each time, so a continued study keeps it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from vram_search.data import Rows
from vram_search.estimate import workload_of
from vram_search.estimate.step_time import (
    CHARACTERS_PER_TOKEN,
    StepTimeModel,
    TrialKind,
    kind_of,
    padded_tokens,
    speed_here,
    step_seconds,
)
from vram_search.spec import Card, Hyperparameters, MemoryPlan, ModelShape
from vram_search.store import TrialRecord

SHRINKAGE = 1
"""Number of trials that weigh as much as the assumption of no correction. Of 0, 1 and 3 it was the
best on rows held out in `bench.step_time.fit`."""


def learnt_step_time(
    shape: ModelShape,
    trials: Iterable[TrialRecord],
    device: str,
    card: Card,
    row_tokens: Sequence[int] = (),
) -> StepTimeModel:
    """Returns the step-time model of this device for this study.

    Args:
        trials: trials of one study, in any order and with any outcome. Trials of other devices are
            left out, as are those that ran out of memory: Windows may have slowed them down before.
        device: the card's name as the trials record it.
        card: the study's card; its data sheet counts if the device is not known.
        row_tokens: lengths of the training rows, uncut (`approximate_row_tokens`).
    """
    step_time = StepTimeModel(speed_here(device, card))
    usable = [t for t in trials if t.device == device and t.plan and t.outcome != "oom"]
    rows = sorted(row_tokens, reverse=True)
    ratios = (_ratio(shape, trial, step_time, rows) for trial in usable)
    return corrected(step_time, [ratio for ratio in ratios if ratio is not None])


def corrected(step_time: StepTimeModel, ratios: Sequence[tuple[TrialKind, float]]) -> StepTimeModel:
    """Corrects the model by trials with one factor for all and one for each kind of trial.

    Args:
        ratios: kind of each trial, and its measured / predicted seconds by the uncorrected model.
    """
    if not ratios:
        return step_time
    overall = _shrunken_median([math.log(ratio) for _, ratio in ratios])
    left: dict[TrialKind, list[float]] = {}
    for kind, ratio in ratios:
        left.setdefault(kind, []).append(math.log(ratio) - overall)
    kind_factors = {kind: math.exp(_shrunken_median(logs)) for kind, logs in left.items()}
    return replace(step_time, factor=math.exp(overall), kind_factors=kind_factors)


def _shrunken_median(logs: Sequence[float]) -> float:
    return statistics.median(logs) * len(logs) / (len(logs) + SHRINKAGE)


def approximate_row_tokens(rows: Rows, longest_tokens: int) -> tuple[int, ...]:
    """Estimates the training rows' lengths in tokens from their characters.

    Args:
        longest_tokens: tokens of the longest row, as the training process counted them.
    """
    characters = [sum(len(content) for _, content in example.messages) for example in rows.train]
    tokens_per_character = longest_tokens / max(characters)
    return tuple(max(1, round(count * tokens_per_character)) for count in characters)


def guessed_row_tokens(rows: Rows) -> tuple[int, ...]:
    """Guesses the training rows' lengths in tokens before a tokenizer is loaded."""
    longest = max(sum(len(content) for _, content in row.messages) for row in rows.train)
    return approximate_row_tokens(rows, max(1, round(longest / CHARACTERS_PER_TOKEN)))


def _ratio(
    shape: ModelShape, trial: TrialRecord, step_time: StepTimeModel, row_tokens: Sequence[int]
) -> tuple[TrialKind, float] | None:
    """Returns the trial's kind and measured / predicted seconds.

    If the training had no second step, the probe's seconds for the longest rows are used. Rows come
    longest first.
    """
    measured = trial.measured or {}
    hp = Hyperparameters.model_validate(trial.hyperparameters)
    workload = workload_of(shape, hp, MemoryPlan.model_validate(trial.plan), hp.cutoff_len)
    rows, micro_batch = row_tokens or [hp.cutoff_len], workload.per_device_train_batch_size
    if hp.packing:  # every sequence is full
        seconds = measured.get("step_seconds") or measured.get("probe_step_seconds")
        return (kind_of(workload), seconds / step_seconds(workload, step_time)) if seconds else None
    if seconds := measured.get("step_seconds"):
        tokens = padded_tokens(rows, hp.cutoff_len, hp.batch_size, micro_batch)
    elif seconds := measured.get("probe_step_seconds"):
        tokens = min(rows[0], hp.cutoff_len)
    else:
        return None
    return kind_of(workload), seconds / step_seconds(workload, step_time, tokens)
