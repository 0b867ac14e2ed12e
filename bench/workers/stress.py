"""Kills workers of one study at random moments, and checks that no trial is lost or doubled.

    python -m bench.workers.stress --workers 32 --kills 64 --trials 200 [--database URL] [--apart]

The training process is `bench/faults/lean_trainer.py`. With `--apart` each worker has files of its
own, as on another machine: then only an expired lease tells that it is dead.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from bench.faults.invariants import Tally, count_tracebacks, examine
from bench.faults.night import LEAN, ready_of, write_study
from bench.faults.supervisor import Supervisor, run_here, start
from vram_search.store import open_store, sqlite_url, workers
from vram_search.worker import lease

WAIT_SECONDS = 600.0
"""Longest time from the last kill to the end of all workers, on a busy machine."""
SHORT_LEASE = {"LEASE_SECONDS": 3.0, "HEARTBEAT_SECONDS": 0.5}


class Workers:
    """The workers of one study.

    Args:
        apart: each has files of its own.
    """

    def __init__(self, folder: Path, url: str, trials: int, *, apart: bool, step: float) -> None:
        self.folder, self.url, self.trials, self.apart = folder, url, trials, apart
        self.study = write_study(folder)
        self.environment = {
            "LEAN_READY": json.dumps(ready_of(self.study)),
            "LEAN_STEP": str(step),
            "LEAN_MIX": "1",
            "VRAM_SEARCH_HOME": str(folder / "home"),
            "PYTHONHASHSEED": "0",
        }
        self.output = folder / "output.txt"
        self.started = 0
        self.alive: list[Supervisor] = []

    def record_study(self) -> None:
        """Runs the first trial in this process: all imports are there for the workers."""
        arguments = ("run", self.study, "--trials", 1, "--database", self.url, "--no-keep-awake")
        run_here(arguments, LEAN, self.environment)

    def start(self) -> None:
        """Starts one more worker."""
        environment = dict(self.environment)
        if self.apart:
            environment["VRAM_SEARCH_HOME"] = str(self.folder / f"home-{self.started}")
        arguments = (
            *("worker", "--study", "killed", "--trials", self.trials, "--beside"),
            *("--database", self.url, "--no-keep-awake"),
        )
        hook = shorten_leases if self.apart else (lambda: None)
        self.alive.append(start(arguments, self.output, LEAN, environment, hook))
        self.started += 1

    def kill_one(self, choose: random.Random) -> bool:
        """Kills a worker that runs, and starts another one; False if all have ended."""
        self.alive = [one for one in self.alive if one.is_running()]
        if not self.alive:
            return False
        victim = choose.choice(self.alive)
        victim.send(signal.SIGKILL)
        victim.wait()
        self.alive.remove(victim)
        self.start()
        return True

    def wait(self, tally: Tally, seconds: float) -> None:
        """Waits for the end of all workers."""
        deadline = time.monotonic() + seconds
        for one in self.alive:
            if not one.wait(max(0.1, deadline - time.monotonic())):
                tally.count("hangs", f"worker {one.pid} did not end")
                one.kill_group()
                one.wait()
            elif one.code:
                tally.count("failed_runs", f"worker {one.pid} ended with code {one.code}")


def shorten_leases() -> None:
    """Lets leases expire within seconds, in this process."""
    for name, value in SHORT_LEASE.items():
        setattr(workers, name, value)
        setattr(lease, name, value)
    lease.STEADY_SECONDS = 3 * SHORT_LEASE["HEARTBEAT_SECONDS"]


def stress(
    folder: Path,
    url: str,
    *,
    count: int,
    kills: int,
    trials: int,
    apart: bool,
    seed: int,
    step: float = 0.01,
) -> Tally:
    """Starts workers, kills some of them, and examines what is recorded at the end."""
    tally, choose = Tally(), random.Random(seed)
    group = Workers(folder, url, trials, apart=apart, step=step)
    group.record_study()
    for _ in range(count):
        group.start()
    while tally.kills < kills:
        time.sleep(choose.uniform(0.0, 0.3))
        if not group.kill_one(choose):
            break
        tally.kills += 1
    group.wait(tally, WAIT_SECONDS)
    tally.runs = group.started
    run_here(
        ("run", group.study, "--trials", trials + 2, "--database", url), LEAN, group.environment
    )
    os.environ["VRAM_SEARCH_HOME"] = group.environment["VRAM_SEARCH_HOME"]
    when = f"{count} workers"
    count_tracebacks([group.output], tally, when)
    if apart:  # files of the other machines are not here
        count_doubled(url, tally)
    else:
        examine(url, tally, when)
        count_doubled(url, tally)
    if tally.details:
        print(group.output.read_text("utf-8", errors="replace")[-100_000:], file=sys.stderr)
    return tally


def count_doubled(url: str, tally: Tally) -> None:
    """Counts points that two trials have trained although neither was lost."""
    with closing(open_store(url, create=False)) as store:
        (study,) = store.studies()
        trials = store.trials(study.id)
        left = workers.workers_of(store.engine)
    tally.trials = len(trials)
    trained = [t for t in trials if t.outcome not in ("lost", "infeasible")]
    points = Counter(json.dumps(t.hyperparameters, sort_keys=True) for t in trained)
    for point, times in points.items():
        if times > 1:
            tally.count("doubled", f"{times} trials have trained {point}")
    for trial in trials:
        if trial.outcome is None:
            tally.count("lost", f"trial {trial.number} has no outcome")
    for worker in left:
        tally.count("leftovers", f"{worker} is still recorded")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.workers.stress", description=__doc__)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--kills", type=int, default=64)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--database", help="URL; default: an SQLite file")
    parser.add_argument("--apart", action="store_true", help="each worker has files of its own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--step", type=float, default=0.01, help="seconds of a step")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vram-search-workers-") as name:
        folder = Path(name)
        url = options.database or sqlite_url(folder / "search.db")
        tally = stress(
            folder / "study",
            url,
            count=options.workers,
            kills=options.kills,
            trials=options.trials,
            apart=options.apart,
            seed=options.seed,
            step=options.step,
        )
    print(json.dumps(asdict(tally)))
    sys.exit(0 if tally.is_clean else 1)


if __name__ == "__main__":
    main()
