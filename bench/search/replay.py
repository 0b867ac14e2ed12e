"""A night on the GPU, replayed from a table: each second is charged as it was measured.

A strategy asks for a point; the replay trains the nearest configuration of the table that was not
tried yet, so every loss is a measured one. No surrogate is involved.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.search.table import Config, Row, Table
from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.spec.hyperparameters import MAIN

Outcome = Literal["complete", "pruned", "oom", "infeasible", "diverged"]
NIGHT_TRIALS = 40
"""Full runs that eight hours hold: 12 minutes each are assumed, of a 3B model on a 16 GB card."""
ROUNDING = 0.03
"""Evaluations are made at whole steps: at 7 of 30 for two ninths."""
OnEvaluation = Callable[[float, float | None], bool]
"""Called with the share of the run and the eval_loss; true ends the trial."""

CATEGORIES = [dimension.name for dimension in MAIN if dimension.kind == "categorical"]
LOGARITHMIC = [dimension.name for dimension in MAIN if dimension.kind != "categorical"]


@dataclass(frozen=True)
class Costs:
    """Seconds besides training and evaluation, measured on an H200 (docs/experiments.md).

    Attributes:
        start: of a fresh process, to the loaded base model.
        between: two trials in one process.
        oom: an out-of-memory trial in all, the new process included.
    """

    start: float = 13.65
    between: float = 0.05
    oom: float = 14.8


@dataclass(frozen=True)
class Rules:
    """How a strategy's trials run.

    Attributes:
        is_resident: one process trains all trials.
        knows_memory: what does not fit is refused without a GPU second.
        evaluate_at: shares of the run besides its end; None: wherever the table does.
    """

    is_resident: bool = False
    knows_memory: bool = False
    evaluate_at: tuple[float, ...] | None = (1 / 3, 2 / 3)


@dataclass(frozen=True)
class Trial:
    """One replayed trial.

    Attributes:
        started, ended: GPU seconds since the night began.
        value: eval_loss of its best evaluated checkpoint; None where none is finite.
        last: eval_loss of the last one.
    """

    config: Config
    row: Row
    outcome: Outcome
    started: float
    ended: float
    value: float | None = None
    last: float | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.started


@dataclass
class Replay:
    """One night of one strategy.

    Args:
        night: GPU seconds; no trial starts later.
        seed: decides which recorded seed of a configuration is trained, and the strategy's draws.
    """

    table: Table
    limit_bytes: int
    night: float
    rules: Rules
    seed: int
    costs: Costs = Costs()
    clock: float = 0.0
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.remaining = list(self.table.configs)
        self._row_of: dict[str, Row] = {}
        self._start_in_setup = setup_holds_start(self.table, self.costs)

    @property
    def is_open(self) -> bool:
        """The night lasts, and the table holds something new."""
        return self.clock < self.night and bool(self.remaining)

    def nearest(self, point: Hyperparameters) -> Config:
        """The untried configuration at the smallest Gower distance."""
        space = self.table.space
        return min(self.remaining, key=lambda c: distance(c.hyperparameters, point, space))

    def excess(self, config: Config) -> float:
        """Share by which it misses the limit; <= 0 where it fits."""
        return config.bytes / self.limit_bytes - 1

    def run(
        self,
        config: Config,
        on_evaluation: OnEvaluation = lambda share, loss: False,
        *,
        resumed_at: float = 0.0,
    ) -> Trial:
        """Trains a configuration until its end or until the strategy ends it.

        A configuration that was trained before has the same seed again.

        Args:
            resumed_at: share of the run whose checkpoint it continues from, with no seconds for
                loading it; its evaluations were made. 0: from the start.
        """
        if config in self.remaining:
            self.remaining.remove(config)
            self._row_of[config.name] = self.random.choice(config.rows)
        row = self._row_of[config.name]
        started = self.clock
        if self.excess(config) > 0:
            trial = self._does_not_fit(config, row)
        else:
            self.clock += self._set_up(row)
            trial = self._train(config, row, started, on_evaluation, resumed_at)
        self.trials.append(trial)
        return trial

    def _does_not_fit(self, config: Config, row: Row) -> Trial:
        started = self.clock
        if self.rules.knows_memory:
            return Trial(config, row, "infeasible", started, started)
        self.clock += self.costs.oom
        return Trial(config, row, "oom", started, self.clock)

    def _set_up(self, row: Row) -> float:
        own = 0.0 if self._start_in_setup else row.setup_seconds
        start = row.setup_seconds if self._start_in_setup else self.costs.start
        is_first = not any(trial.seconds for trial in self.trials)
        if is_first or not self.rules.is_resident:
            return start + own
        return self.costs.between + own

    def _train(
        self,
        config: Config,
        row: Row,
        started: float,
        on_evaluation: OnEvaluation,
        resumed_at: float,
    ) -> Trial:
        losses: list[float | None] = []
        step = 0
        ended_early = False
        for point in row.points_at(self.rules.evaluate_at):
            if row.eval_steps[point] / row.eval_steps[-1] <= resumed_at + ROUNDING:
                step = row.eval_steps[point]
                losses.append(row.eval_loss[point])
                continue
            self.clock += row.train_seconds * (row.eval_steps[point] - step) / row.steps
            self.clock += row.eval_seconds_each
            step = row.eval_steps[point]
            losses.append(row.eval_loss[point])
            ended_early = on_evaluation(step / row.eval_steps[-1], losses[-1])
            if ended_early:
                break
        value = min((loss for loss in losses if loss is not None), default=None)
        outcome: Outcome = "complete"
        if losses[-1] is None and (ended_early or value is None):
            outcome = "diverged"
        elif ended_early and step < row.eval_steps[-1]:
            outcome = "pruned"
        return Trial(config, row, outcome, started, self.clock, value, losses[-1])


def setup_holds_start(table: Table, costs: Costs) -> bool:
    """Whether the table's runs had a process each: then setup_seconds is mostly its start."""
    seconds = [row.setup_seconds for config in table.configs for row in config.rows]
    return statistics.median(seconds) > costs.start / 2


def full_run_seconds(table: Table) -> float:
    """Median training and evaluation seconds of a run to its end."""
    rows = [row for config in table.configs for row in config.rows]
    return statistics.median(row.train_seconds + row.eval_seconds for row in rows)


def distance(one: Hyperparameters, other: Hyperparameters, space: SearchSpace) -> float:
    """Gower's: numbers by the share of their logarithmic range, categories 0 or 1; summed."""
    total = float(sum(getattr(one, name) != getattr(other, name) for name in CATEGORIES))
    for name in LOGARITHMIC:
        low, high = _bounds(getattr(space, name))
        if low < high:
            gap = math.log(getattr(one, name) / getattr(other, name))
            total += abs(gap) / math.log(high / low)
    return total


def _bounds(values: Any) -> tuple[float, float]:
    if isinstance(values, Sequence):
        return min(values), max(values)
    return values.min, values.max
