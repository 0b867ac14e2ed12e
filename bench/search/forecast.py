"""Forecast of a night against what a replayed search did (row format: bench/search/table.py).

python -m bench.search.forecast --table FILE.jsonl [--table ...] --seeds 10
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

from bench.search.ours import our_search
from bench.search.replay import Costs, Replay, full_run_seconds
from bench.search.strategies import our_rules
from bench.search.table import Table, read_tables
from vram_search.estimate.night import forecast_night

NIGHTS = (6, 12, 24, 40)
"""Lengths of a night, in full runs of the table."""


@dataclass(frozen=True)
class Night:
    """One replayed night beside its forecast."""

    forecast_full: int
    forecast_stopped: int
    full: int
    stopped: int

    @property
    def error(self) -> float:
        """Forecast trials over those that ran, minus 1."""
        return (self.forecast_full + self.forecast_stopped) / (self.full + self.stopped) - 1


def play(table: Table, night_trials: int, seed: int) -> Night | None:
    """Replays one night and forecasts it from the seconds of its second full trial.

    The first one's hold the start of the process, which the product counts apart.

    Returns:
        None if fewer than two trials were complete.
    """
    limit = max(config.bytes for config in table.configs)
    length = night_trials * full_run_seconds(table)
    replay = Replay(table, limit, length, our_rules(), seed, Costs())
    our_search(replay)
    complete = [trial for trial in replay.trials if trial.outcome == "complete"]
    stopped = [trial for trial in replay.trials if trial.outcome == "pruned"]
    if len(complete) < 2:
        return None
    # The search may end before the night does: what it used is forecast.
    forecast = forecast_night(complete[1].seconds, replay.clock)
    return Night(forecast.full, forecast.stopped, len(complete), len(stopped))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    print("task       night  full: forecast  fact   stopped: forecast  fact   error of all, median")
    for table in read_tables(options.table):
        for length in NIGHTS:
            played = [play(table, length, seed) for seed in range(options.seeds)]
            nights = [night for night in played if night is not None]
            means = [
                statistics.mean(getattr(night, name) for night in nights)
                for name in ("forecast_full", "full", "forecast_stopped", "stopped")
            ]
            error = statistics.median(abs(night.error) for night in nights)
            print(
                f"{table.task:<10} {length:>5}  {means[0]:>14.1f} {means[1]:>5.1f}  "
                f"{means[2]:>17.1f} {means[3]:>5.1f}   {error:.0%}"
            )


if __name__ == "__main__":
    main()
