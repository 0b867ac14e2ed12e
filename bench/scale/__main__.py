"""Costs of many workers and many trials, by simulation: `python -m bench.scale workers`.

Trainings are not made: losses and durations are a formula (`synthetic_search`), and the clock is
simulated. Asks, and the store's transactions, are the product's and are timed for real.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from optuna.storages import InMemoryStorage

from bench.scale.many_workers import workers
from bench.scale.synthetic_search import search_in, training
from vram_search.search import Search
from vram_search.search.storage import open_storage
from vram_search.store import Evaluation, StepLoss, Store, TrialResult, open_store, sqlite_url

STEPS = 60
"""Logged losses of a trial in the store."""


def asks(counts: list[int], strategy: str, storage: str) -> list[dict[str, Any]]:
    """Seconds of an ask after so many trials: the first of a process, and those that follow."""
    rows = []
    for count in counts:
        if storage == "memory":
            rows.append(_time_asks(search_in(InMemoryStorage(), strategy, 1, count), count))
            continue
        with tempfile.TemporaryDirectory() as folder:
            url = sqlite_url(Path(folder) / "search.db")
            with closing(open_store(url, create=True)), open_storage(url) as opened:
                search_in(opened, strategy, 1, count)
            with open_storage(url, "scale") as opened:  # a fresh process reads all trials
                rows.append(_time_asks(search_in(opened, strategy, 1), count))
    return rows


def _time_asks(search: Search, count: int) -> dict[str, Any]:
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        proposal = search.ask()
        seconds.append(time.perf_counter() - began)
        run = training(proposal.hyperparameters, 1)
        search.tell(proposal.number, "complete", run.final, -0.1)
    later = sorted(seconds[1:])
    return {
        "trials": count,
        "first_seconds": round(seconds[0], 3),
        "median_seconds": round(statistics.median(later), 3),
        "longest_seconds": round(later[-1], 3),
    }


def store_load(url: str, trials: int) -> dict[str, Any]:
    """Seconds of the store's transactions for a trial's life, and of reading all trials."""
    with closing(open_store(url, create=True)) as store:
        study = store.create_study(f"load-{time.time_ns()}", {}, "d", {}, {})
        began = time.perf_counter()
        for number in range(trials):
            _record_trial(store, study.id, number)
        seconds = (time.perf_counter() - began) / trials
        began = time.perf_counter()
        store.trials(study.id)
        read = time.perf_counter() - began
        store.delete_study(study.id)
    return {
        "trials": trials,
        "seconds_a_trial": round(seconds, 4),
        "trials_per_second": round(1 / seconds, 1),
        "read_all_seconds": round(read, 3),
    }


def _record_trial(store: Store, study_id: int, number: int) -> None:
    point = {"lora_rank": 16, "learning_rate": 2e-4, "optim": "adamw_8bit", "cutoff_len": 1024}
    trial = store.start_trial(study_id, number, point, 1, "d")
    store.record_plan(trial, {"micro_batch": 2}, {"required_bytes": 2**33})
    for stage in ("probe", "train", "eval"):
        store.record_stage(trial, stage)
    losses = [StepLoss(step, 2.0 - step / 100, 2e-4, 1.0) for step in range(STEPS)]
    evaluations = [Evaluation(i, i / 3, 1.8, 1.8, 0.9, [1.0] * 64, 2.0) for i in (1, 2, 3)]
    store.finish_trial(
        trial,
        TrialResult("complete", eval_loss=1.8, step_losses=losses, evaluations=evaluations),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("asks", "workers", "store"))
    parser.add_argument("--strategy", default="gp")
    parser.add_argument("--trials", type=_numbers, default=[100, 1000, 10_000])
    parser.add_argument("--workers", type=_numbers, default=[1, 4, 16, 64, 256])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="simulations side by side")
    parser.add_argument("--within", type=float, default=0.01, help="share of the best loss")
    parser.add_argument("--storage", choices=("memory", "sqlite"), default="memory")
    parser.add_argument("--database", help="URL for `store`; default: a new SQLite file")
    options = parser.parse_args()
    if options.what == "asks":
        rows: Iterable[dict[str, Any]] = asks(options.trials, options.strategy, options.storage)
    elif options.what == "workers":
        rows = workers(
            options.workers,
            options.seeds,
            options.strategy,
            options.within,
            options.processes,
        )
    else:
        with tempfile.TemporaryDirectory() as folder:
            url = options.database or sqlite_url(Path(folder) / "load.db")
            rows = [store_load(url, count) for count in options.trials]
    for row in rows:
        print(json.dumps(row), flush=True)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    main()
