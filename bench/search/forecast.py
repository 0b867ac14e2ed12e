"""Forecast of a night against what a replayed search did (row format: bench/search/table.py).

python -m bench.search.forecast --table FILE.jsonl [--table ...] --seeds 10
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path

from bench.search.ours import our_search
from bench.search.replay import Costs, Replay, full_run_seconds
from bench.search.strategies import our_rules
from bench.search.table import Table, read_tables
from vram_search.estimate.night import NightForecast, forecast_night

NIGHTS = (6, 12, 24, 40)
"""Lengths of a night, in full runs of the table."""


COUNTS = ("full", "stopped")
MOMENTS = (0.0, 0.25, 0.5)
"""Shares of the night after which the rest is forecast; at 0 from one full trial alone."""


@dataclass(frozen=True)
class Rest:
    """The rest of a replayed night beside its forecast."""

    forecast: NightForecast
    full: int
    stopped: int
    before: int

    @property
    def error(self) -> float:
        """Forecast trials of the whole night over those that ran, minus 1."""
        ran = self.before + self.full + self.stopped
        return (self.before + self.forecast.trials) / ran - 1

    @property
    def is_inside(self) -> bool:
        """True if as many trials were stopped as the range says."""
        least, most = self.forecast.stopped_range
        return least <= self.stopped <= most


def play(table: Table, night_trials: int, seed: int) -> tuple[list[tuple[str, float]], float]:
    """Replays one night.

    Returns:
        Outcome and seconds of each finished trial, and the seconds that the search used: it may end
        before the night does.
    """
    limit = max(config.bytes for config in table.configs)
    length = night_trials * full_run_seconds(table)
    replay = Replay(table, limit, length, our_rules(), seed, Costs())
    our_search(replay)
    finished = [trial for trial in replay.trials if trial.outcome in ("complete", "pruned")]
    return [(trial.outcome, trial.seconds) for trial in finished], replay.clock


def forecast_rest(trials: list[tuple[str, float]], clock: float, moment: float) -> Rest | None:
    """Forecasts the rest of a night as the product would.

    The first full trial's seconds hold the start of the process, which the product counts apart:
    at the start the second one's are taken.

    Returns:
        None if no full trial has ended by then.
    """
    ends = list(itertools.accumulate(seconds for _, seconds in trials))
    done = sum(end <= moment * clock for end in ends)
    times = {
        outcome: [seconds for other, seconds in trials[:done] if other == outcome]
        for outcome in ("complete", "pruned")
    }
    full = times["complete"] or [s for outcome, s in trials if outcome == "complete"][1:2]
    if not full or (moment and not times["complete"]):
        return None
    forecast = forecast_night(
        statistics.median(full),
        clock - (ends[done - 1] if done else 0.0),
        stopped_seconds=times["pruned"],
        full_so_far=len(times["complete"]),
    )
    rest = [outcome for outcome, _ in trials[done:]]
    return Rest(forecast, rest.count("complete"), rest.count("pruned"), done)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    print(
        "task       night  after   full: forecast  fact   stopped: forecast  fact   in range   "
        "error of all, median"
    )
    for table in read_tables(options.table):
        for length in NIGHTS:
            played = [play(table, length, seed) for seed in range(options.seeds)]
            for moment in MOMENTS:
                found = [forecast_rest(trials, clock, moment) for trials, clock in played]
                print_row(table.task, length, moment, [rest for rest in found if rest is not None])


def print_row(task: str, length: int, moment: float, rests: list[Rest]) -> None:
    """Prints the means of several nights; nothing if there is none."""
    if not rests:
        return
    full, stopped = (statistics.mean(getattr(r.forecast, k) for r in rests) for k in COUNTS)
    ran_full, ran_stopped = (statistics.mean(getattr(r, k) for r in rests) for k in COUNTS)
    inside = f"{sum(rest.is_inside for rest in rests)} of {len(rests)}"
    error = statistics.median(abs(rest.error) for rest in rests)
    print(
        f"{task:<10} {length:>5}  {moment:>5.0%}  {full:>15.1f} {ran_full:>5.1f}  "
        f"{stopped:>17.1f} {ran_stopped:>5.1f}   {inside:>8}   {error:.0%}"
    )


if __name__ == "__main__":
    main()
