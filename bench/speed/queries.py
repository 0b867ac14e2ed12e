"""How long `best` takes on a database of 1,000 trials: `python -m bench.speed.queries [--json]`.

Whole processes, in turn with a bare `import sqlalchemy`, so that the ratio holds on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.tiny import HYPERPARAMETERS
from vram_search.store import TrialResult, open_store, sqlite_url

TRIALS = 1000
ROUNDS = 15


def main() -> None:
    """Prints medians in milliseconds, and the ratio."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed.queries", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VRAM_SEARCH_HOME"] = folder
        fill(Path(folder) / "vram-search.db")
        best = [sys.executable, "-m", "vram_search", "best"]
        bare = [sys.executable, "-c", "import sqlalchemy"]
        times: dict[str, list[float]] = {"best": [], "import sqlalchemy": []}
        for _ in range(ROUNDS):
            times["best"].append(seconds(best))
            times["import sqlalchemy"].append(seconds(bare))
    medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
    result = {
        "trials": TRIALS,
        "median_ms": medians,
        "ratio": medians["best"] / medians["import sqlalchemy"],
    }
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in medians.items():
            print(f"{name:<20} {value:6.0f} ms")
        print(f"ratio                {result['ratio']:6.2f}")


def fill(path: Path) -> None:
    """A database of TRIALS complete trials."""
    store = open_store(sqlite_url(path), create=True)
    card = {"title": "a card"}
    study = store.create_study("bench", {}, "0", card, {"name": "a model"})
    for number in range(TRIALS):
        trial = store.start_trial(study.id, number, HYPERPARAMETERS, 1, "0")
        loss = 1.0 + (number * 37 % TRIALS) / TRIALS
        store.finish_trial(trial, TrialResult("complete", eval_loss=loss, eval_loss_step=9))
    store.close()


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
