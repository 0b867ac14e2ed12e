"""Transfers earlier searches: losses of other models and data sets, as tasks of the surrogate.

Losses of one configuration on two data sets correlate 0.9 (docs/experiments.md). Between models the
best learning rate falls with the hidden size: Schulman et al., LoRA Without Regret (Thinking
Machines, 2025), fit (2000 / hidden size) ** p with p 0.78 for Llama and 0.08 for Qwen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from vram_search.search.gp.features import features
from vram_search.search.gp.surrogate import Array, Task
from vram_search.spec import Hyperparameters
from vram_search.spec.hyperparameters import MAIN, Dimension, Frame, ModelPlace

LEARNING_RATE_EXPONENT = 0.43
"""Between the two that are published."""
FEWEST_TRIALS = 5
"""Complete trials with which a search tells something."""
MOST_TASKS = 4
"""The newest."""
MOST_TRIALS = 300
"""Most trials of all tasks together, in equal shares: a proposal's time grows with their cube."""


@dataclass(frozen=True)
class SourceTask:
    """Complete trials of one search.

    Attributes:
        hidden_size: hidden_size of its model; None if it is unknown.
        trials: points and their eval_loss, nats per token.
    """

    name: str
    hidden_size: int | None
    trials: tuple[tuple[Hyperparameters, float], ...]


@cache
def shipped() -> tuple[SourceTask, ...]:
    """The runs in knowledge.json: SmolLM2-135M-Instruct on two small data sets
    (`python -m bench.curves.knowledge`)."""
    text = resources.files("vram_search.search.gp").joinpath("knowledge.json").read_text("utf-8")
    return tuple(
        SourceTask(
            task["name"],
            task["hidden_size"],
            tuple(
                (Hyperparameters(**dict(zip(task["fields"], values, strict=True))), loss)
                for *values, loss in task["rows"]
            ),
        )
        for task in json.loads(text)["tasks"]
    )


def tasks(
    experiences: Iterable[SourceTask],
    hidden_size: int | None,
    dimensions: Sequence[Dimension] = MAIN,
) -> list[Task]:
    """The surrogate's tasks, for a model with this hidden size; the first ones are kept.

    Args:
        dimensions: dimensions of the search that learns from them (`surrogate_dimensions`).
    """
    found: list[Task] = []
    for experience in experiences:
        if len(found) == MOST_TASKS:
            break
        known = [(p, loss) for p, loss in experience.trials if loss > 0 and math.isfinite(loss)]
        if len(known) < FEWEST_TRIALS:
            continue
        points = [point for point, _ in known]
        factor = 1.0
        if hidden_size and experience.hidden_size:
            factor = (experience.hidden_size / hidden_size) ** LEARNING_RATE_EXPONENT
        frame = Frame(
            max(point.cutoff_len for point in points), ModelPlace(learning_rate_factor=factor)
        )
        losses = without_tail(np.log([loss for _, loss in known]))
        if losses.std() > 1e-12:  # less is rounding: all losses are equal
            standard = (losses - losses.mean()) / losses.std()
            found.append(Task(features(points, frame, dimensions), standard))
    return [_thinned(task, MOST_TRIALS // len(found)) for task in found]


def _thinned(task: Task, most: int) -> Task:
    """Its best trial, its worst one, and those at equal distances between them."""
    if len(task.losses) <= most:
        return task
    ranked = np.argsort(task.losses, kind="stable")
    places = ranked[np.linspace(0, len(ranked) - 1, most).round().astype(int)]
    return Task(task.points[places], task.losses[places])


def without_tail(losses: Sequence[float] | Array) -> Array:
    """Losses [n] with the worst moved up to the rest: how bad a bad point is tells nothing."""
    array = np.asarray(losses, dtype=float)
    median = np.median(array)
    limited: Array = np.minimum(array, median + (median - array.min()) + 1e-9)
    return limited
