"""Every strategy's nights over every seed, on as many processes as asked for."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.search.metrics import Incumbent, Result, Summary, UntilGood, judge, summarize
from bench.search.replay import NIGHT_TRIALS, Costs, Replay, full_run_seconds
from bench.search.strategies import LEVERS, RANDOM, STRATEGIES, our_rules
from bench.search.table import Table

PROGRESS = 20
"""Nights between two lines of progress."""


@dataclass(frozen=True)
class Setting:
    """What all strategies of a task share.

    Attributes:
        part: share of the configurations that each seed draws for its own night; 1: every night
            has all of them.
        until_good: a night ends with the first incumbent within 1 % of the best. Its seconds to
            1 % are those of a whole night; its regret, winner and numbers of trials are not.
    """

    table: Table
    limit_bytes: int
    night: float
    costs: Costs
    equal_terms: bool = False
    part: float = 1.0
    until_good: bool = False

    @classmethod
    def of(
        cls,
        table: Table,
        limit_bytes: int,
        costs: Costs,
        night_trials: int = NIGHT_TRIALS,
        *,
        equal_terms: bool = False,
        part: float = 1.0,
        until_good: bool = False,
    ) -> Setting:
        """A night as long as so many full runs of the table.

        Args:
            equal_terms: every strategy's trials run in one process, and nothing that does not
                fit is trained, as in our worker.

        Raises:
            InputError: nothing of the table fits.
        """
        table.best(limit_bytes)
        night = night_trials * full_run_seconds(table)
        return cls(table, limit_bytes, night, costs, equal_terms, part, until_good)

    @property
    def key(self) -> tuple[str | int | float | bool, ...]:
        """Tells nights of this setting from others."""
        key = (self.table.task, self.limit_bytes, round(self.night, 3), self.equal_terms)
        part = () if self.part == 1 else (self.part,)
        return (*key, *part, *(("until good",) if self.until_good else ()))

    def play(self, name: str, seed: int) -> Result:
        """One night of one strategy."""
        strategy = (STRATEGIES | LEVERS)[name]
        rules = strategy.rules or our_rules()
        if self.equal_terms:
            rules = replace(rules, is_resident=True, knows_memory=True)
        table = self.table if self.part == 1 else self.table.part(self.part, seed)
        kind = UntilGood if self.until_good else Replay
        replay = kind(table, self.limit_bytes, self.night, rules, seed, self.costs)
        strategy.run(replay)
        return judge(name, replay)


@dataclass
class Nights:
    """Nights that were played, in memory and as JSON lines, so that a stopped run goes on.

    Args:
        file: read first, if it is there; new nights are added to it. None: nothing is kept.
    """

    file: Path | None = None

    def __post_init__(self) -> None:
        self._found: dict[tuple[object, ...], Result] = {}
        if self.file is not None and self.file.is_file():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                key = tuple(row.pop("setting"))
                row["incumbents"] = tuple(Incumbent(*one) for one in row["incumbents"])
                self._found[key, row["strategy"], row["seed"]] = Result(**row)

    def find(self, setting: Setting, name: str, seed: int) -> Result | None:
        """Returns the night if it was played."""
        return self._found.get((setting.key, name, seed))

    def add(self, setting: Setting, result: Result) -> None:
        """Keeps a night."""
        self._found[setting.key, result.strategy, result.seed] = result
        if self.file is not None:
            row = asdict(result) | {
                "setting": setting.key,
                "incumbents": [list(asdict(one).values()) for one in result.incumbents],
            }
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")

    def names(self, settings: Sequence[Setting]) -> set[str]:
        """Strategies of which each setting has a night."""
        found = [{key[1] for key in self._found if key[0] == one.key} for one in settings]
        return {str(name) for name in set.intersection(*found)}

    def by_strategy(
        self, setting: Setting, names: Sequence[str], seeds: range
    ) -> dict[str, list[Result]]:
        """Returns what was played of each strategy, in order of the seeds."""
        found = {
            name: [night for seed in seeds if (night := self.find(setting, name, seed))]
            for name in names
        }
        return {name: nights for name, nights in found.items() if nights}


@dataclass(frozen=True)
class TaskResults:
    """All nights of one task, by strategy; results in order of the seeds."""

    setting: Setting
    results: dict[str, list[Result]]

    def summaries(self) -> list[Summary]:
        baseline = self.results.get(RANDOM)
        return [summarize(name, found, baseline) for name, found in self.results.items()]


def play_all(
    settings: Sequence[Setting],
    names: Sequence[str],
    seeds: int,
    processes: int,
    kept: Nights | None = None,
) -> list[TaskResults]:
    """Plays the nights of each setting, strategy and seed; progress goes to standard error.

    Seeds come one after the other, so a run that is stopped has equal seeds of every strategy.

    Args:
        kept: nights of earlier runs, which are not played again; new ones are added.
    """
    kept = Nights() if kept is None else kept
    jobs = [
        (setting, name, seed)
        for seed, setting, name in itertools.product(range(seeds), settings, names)
        if kept.find(setting, name, seed) is None
    ]
    if jobs:
        with ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), initializer=_one_thread
        ) as pool:
            running = {pool.submit(_play, *job): job for job in jobs}
            for place, done in enumerate(as_completed(running), start=1):
                setting, name, seed = running[done]
                try:
                    kept.add(setting, done.result())
                except Exception as error:  # another library's fault: the other nights count
                    print(f"{name}, seed {seed}: {error!r}", file=sys.stderr, flush=True)
                if place % PROGRESS == 0 or place == len(jobs):
                    print(f"{place} of {len(jobs)} nights", file=sys.stderr, flush=True)
    return [
        TaskResults(setting, kept.by_strategy(setting, names, range(seeds))) for setting in settings
    ]


def _play(setting: Setting, name: str, seed: int) -> Result:
    return setting.play(name, seed)


def _one_thread() -> None:
    """Numbers are small here: threads of one process would only wait for each other."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    warnings.simplefilter("ignore")
