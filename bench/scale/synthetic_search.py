"""A search whose losses and durations are a formula: for thousands of trials without a training."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import optuna

from bench.search.synthetic import SPACE
from vram_search.search import STRATEGIES, Problem, Search
from vram_search.search.encoding import distributions, encode
from vram_search.search.gp.candidates import random_point
from vram_search.spec import Hyperparameters

RUNGS = (1 / 3, 2 / 3)
SECONDS = 600.0
"""Of a training with the smallest configuration; the largest takes 2.5 times as long."""
NOISE = 0.0024
"""Standard deviation between seeds, measured (docs/experiments.md)."""


@dataclass(frozen=True)
class Training:
    """A training that was not made: losses at the rungs and at its end, and seconds."""

    losses: tuple[float, ...]
    final: float
    seconds: float


def training(point: Hyperparameters, seed: int) -> Training:
    """The training of a point; the formula is that of bench/search/synthetic.py."""
    draw = random.Random(f"{point} {seed}")
    final = loss_of(point) + draw.gauss(0, NOISE)
    losses = [final + 0.3 * (1 - rung) ** 2 + draw.gauss(0, 0.01) for rung in RUNGS]
    size = (point.cutoff_len / 256 + point.lora_rank / 64) / 2
    return Training(tuple(losses), final, SECONDS * (1 + 1.5 * size) * draw.uniform(0.95, 1.05))


def loss_of(point: Hyperparameters) -> float:
    """The final loss without noise."""
    strength = math.log10(point.learning_rate) + 3.1
    strength += 0.18 * math.log2(point.lora_rank / 16) - 0.1 * math.log2(point.batch_size / 8)
    strength += 0.5 if point.optim.startswith("lion") else 0.0
    loss = 1.65 + 0.14 * min(strength, 0.0) ** 2 + 0.17 * max(strength, 0.0) ** 2
    loss += 0.012 * (3 - SPACE.lora_target.index(point.lora_target))
    return loss + 0.02 * (1 - point.cutoff_len / max(SPACE.cutoff_len))


def best_loss(points: int = 20_000) -> float:
    """The lowest final loss among random points of the space."""
    draw = random.Random(0)
    return min(loss_of(random_point(SPACE, draw)) for _ in range(points))


def search_in(
    storage: optuna.storages.BaseStorage, strategy: str, seed: int, trials: int = 0
) -> Search:
    """A search that has made this many random trials, two thirds of which were stopped early."""
    search = Search(storage, "scale", 1, Problem(SPACE, RUNGS), STRATEGIES[strategy], seed)
    draw = random.Random(seed)
    study = search._study
    points = dict.fromkeys(random_point(SPACE, draw) for _ in range(trials))
    space = distributions(SPACE)
    made = []
    for number, point in enumerate(points):
        run = training(point, seed)
        is_complete = number % 3 == 0
        reached = run.losses if is_complete else run.losses[: 1 + number % 2]
        state = optuna.trial.TrialState.COMPLETE if is_complete else optuna.trial.TrialState.PRUNED
        made.append(
            optuna.trial.create_trial(
                state=state,
                value=run.final if is_complete else None,
                params=encode(point, SPACE),
                distributions=space,
                intermediate_values=dict(enumerate(reached)),
            )
        )
    study.add_trials(made)
    return search
