"""Runs the kills and the soak, and prints the table."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: a fork must not meet threads

from bench.faults.fault_table import FAULTS
from bench.faults.invariants import Tally
from bench.faults.night import (
    FAKE,
    KILLS_A_STUDY,
    LEAN,
    Kill,
    Night,
    every_boundary,
    random_kill,
    warm_up,
)

COLUMNS = (
    "kills",
    "runs",
    "trials",
    "lost",
    "doubled",
    "disagreements",
    "leftovers",
    "tracebacks",
    "hangs",
    "failed_runs",
)


def kill_series(
    folder: Path, trainer: Sequence[str] | None, kills: list[Kill], deadline: float, seed: int
) -> Tally:
    """Kills studies until all kills are done or the time is over."""
    choose, tally = random.Random(seed), Tally()
    for first in range(0, len(kills), KILLS_A_STUDY):
        if time.monotonic() > deadline:
            break
        night_folder = folder / f"study-{first:04d}"
        night_folder.mkdir(parents=True)
        night = Night(night_folder, trainer, choose, tally)
        for kill in kills[first : first + KILLS_A_STUDY]:
            night.kill(kill)
        night.finish()
    return tally


def soak(folder: Path, trials: int, seed: int) -> Tally:
    """One study of many trials with a kill now and then."""
    choose, tally = random.Random(seed), Tally()
    folder.mkdir()
    night = Night(folder, LEAN, choose, tally)
    for _ in range(5):
        night.kill(random_kill(choose))
    night.finish(trials)
    return tally


def planned_kills(count: int, choose: random.Random) -> list[Kill]:
    """Each boundary once, as far as the count allows, and random moments for the rest."""
    kills = every_boundary()
    choose.shuffle(kills)
    # A kill of both processes, and one of a trainer with the end of its run, count twice.
    return [*kills[:count], *(random_kill(choose) for _ in range(count - len(kills)))]


def failing_faults() -> list[str]:
    """Runs the tests of the fault table; returns the faults of which one fails."""
    failing = []
    for fault, nodes in FAULTS.items():
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu", *nodes]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            failing.append(fault)
        print(f"fault {fault}: {'FAILS' if done.returncode else 'held'}", flush=True)
    return failing


def print_table(rows: dict[str, Tally]) -> None:
    """Prints the table as Markdown."""
    print("| series | " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |")
    print("| --- |" + " --: |" * len(COLUMNS))
    for name, tally in rows.items():
        figures = " | ".join(str(getattr(tally, column)) for column in COLUMNS)
        print(f"| {name} | {figures} |")


def summed(rows: dict[str, Tally]) -> Tally:
    """Adds up the series."""
    total = Tally()
    for tally in rows.values():
        total.add(tally)
    return total


def sum_parts(files: Sequence[Path]) -> int:
    """Prints the table of several runs together; returns the exit code."""
    rows: dict[str, Tally] = {}
    for file in files:
        for name, figures in json.loads(file.read_text("utf-8")).items():
            rows.setdefault(name, Tally()).add(Tally(**figures))
    total = summed(rows)
    print_table({**rows, "all": total})
    for detail in total.details:
        print(detail, file=sys.stderr)
    return 0 if total.is_clean else 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=330, help="kill rounds, lean trainer")
    parser.add_argument("--fake", type=int, default=40, help="rounds with tests/fake_trainer.py")
    parser.add_argument("--real", type=int, default=16, help="rounds that train a real model")
    parser.add_argument("--soak", type=int, default=200, help="trials of the soak")
    parser.add_argument("--minutes", type=float, default=20.0, help="no study starts after these")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--table", action="store_true", help="run the tests of each fault first")
    parser.add_argument("--json", action="store_true", help="print the sums as JSON")
    parser.add_argument("--save", type=Path, help="also write the series to this file")
    parser.add_argument("--sum", type=Path, nargs="+", help="only add up files written by --save")
    options = parser.parse_args()
    if options.sum:
        sys.exit(sum_parts(options.sum))

    failing = failing_faults() if options.table else []
    choose = random.Random(options.seed)
    deadline = time.monotonic() + 60 * options.minutes
    rows: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="vram-search-faults-") as name:
        folder = Path(name)
        warm_up(folder / "warm-up")
        if options.soak:
            rows["soak"] = soak(folder / "soak", options.soak, options.seed)
        for title, trainer, count in (
            ("real training", None, options.real),
            ("fake trainer", FAKE, options.fake),
            ("lean trainer", LEAN, options.kills),
        ):
            if not count:
                continue
            if trainer is LEAN:
                kills = planned_kills(count, choose)
            else:
                kills = [random_kill(choose) for _ in range(count)]
            place = folder / title.replace(" ", "-")
            rows[title] = kill_series(place, trainer, kills, deadline, options.seed)
    total = summed(rows)
    if options.save:
        saved = {name: asdict(tally) for name, tally in rows.items()}
        options.save.write_text(json.dumps(saved, indent=1), encoding="utf-8")
    if options.json:
        print(json.dumps(asdict(total)))
    else:
        print_table({**rows, "all": total})
        print(f"seed {options.seed}")
        for detail in total.details:
            print(detail, file=sys.stderr)
    sys.exit(0 if total.is_clean and not failing else 1)


if __name__ == "__main__":
    main()
