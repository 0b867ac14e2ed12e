"""Every strategy's nights over every seed, on as many processes as asked for."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from bench.search.metrics import Result, Summary, judge, summarize
from bench.search.replay import Costs, Replay, full_run_seconds
from bench.search.strategies import LEVERS, RANDOM, STRATEGIES, our_rules
from bench.search.table import Table

NIGHT_TRIALS = 40
"""Full runs that eight hours hold: 12 minutes each are assumed, of a 3B model on a 16 GB card."""


@dataclass(frozen=True)
class Setting:
    """What all strategies of a task share."""

    table: Table
    limit_bytes: int
    night: float
    costs: Costs

    @classmethod
    def of(
        cls, table: Table, limit_bytes: int, costs: Costs, night_trials: int = NIGHT_TRIALS
    ) -> Setting:
        """A night as long as so many full runs of the table.

        Raises:
            InputError: nothing of the table fits.
        """
        table.best(limit_bytes)
        return cls(table, limit_bytes, night_trials * full_run_seconds(table), costs)

    def play(self, name: str, seed: int) -> Result:
        """One night of one strategy."""
        strategy = (STRATEGIES | LEVERS)[name]
        rules = strategy.rules or our_rules()
        replay = Replay(self.table, self.limit_bytes, self.night, rules, seed, self.costs)
        strategy.run(replay)
        return judge(name, replay)


@dataclass(frozen=True)
class TaskResults:
    """All nights of one task, by strategy; results in order of the seeds."""

    setting: Setting
    results: dict[str, list[Result]]

    def summaries(self) -> list[Summary]:
        baseline = self.results.get(RANDOM)
        return [summarize(name, found, baseline) for name, found in self.results.items()]


def play_all(
    settings: Sequence[Setting], names: Sequence[str], seeds: int, processes: int
) -> list[TaskResults]:
    """Nights of each setting, strategy and seed; progress goes to standard error."""
    jobs = list(itertools.product(settings, names, range(seeds)))
    found: list[Result] = []
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_one_thread
    ) as pool:
        for place, result in enumerate(pool.map(_play, *zip(*jobs, strict=True)), start=1):
            found.append(result)
            if place % seeds == 0:
                task = jobs[place - 1][0].table.task
                print(f"{task}: {result.strategy}", file=sys.stderr, flush=True)
    each = iter(found)
    return [
        TaskResults(setting, {name: [next(each) for _ in range(seeds)] for name in names})
        for setting in settings
    ]


def _play(setting: Setting, name: str, seed: int) -> Result:
    return setting.play(name, seed)


def _one_thread() -> None:
    """Numbers are small here: threads of one process would only wait for each other."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    warnings.simplefilter("ignore")
