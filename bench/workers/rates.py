"""Measures how many trials per second the workers of one study ask for and record.

    python -m bench.workers.rates --counts 1 4 16 32 [--server]

Trainings take no time (`bench/faults/lean_trainer.py`), so the store and the turns of the workers
are the limit. Asks are trials that have begun, records trials that have ended, both within a window
that begins when every worker has begun a trial.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from bench.workers.stress import Workers
from tests.store.postgres import new_database, restartable_server
from vram_search.store import TrialRecord, open_store, sqlite_url

MANY = 100_000
"""Trials of a study that no run of this program ends."""
START_SECONDS = 120.0


def rates(trials: Sequence[TrialRecord], start: datetime, end: datetime) -> tuple[float, float]:
    """Returns trials begun and trials ended per second between two moments."""
    seconds = (end - start).total_seconds()
    begun = sum(start <= trial.started_at <= end for trial in trials)
    ended = sum(t.finished_at is not None and start <= t.finished_at <= end for t in trials)
    return begun / seconds, ended / seconds


def measure(folder: Path, url: str, count: int, seconds: float) -> dict[str, object]:
    """Lets workers run for a time and counts their trials."""
    group = Workers(folder, url, MANY, apart=False, step=0.0)
    group.record_study()
    with closing(open_store(url, create=False)) as store:
        (study,) = store.studies()
        for _ in range(count):
            group.start()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            found = store.trials(study.id)
            if len({trial.worker_id for trial in found[1:]}) == count:
                break
            time.sleep(0.5)
        start = datetime.now().astimezone()
        before = store.trials(study.id)
        time.sleep(seconds)
        end, trials = datetime.now().astimezone(), store.trials(study.id)
    for worker in group.alive:
        worker.send(signal.SIGINT)
    for worker in group.alive:
        if not worker.wait(60):
            worker.kill_group()
    asks, records = rates(trials, start, end)
    return {
        "workers": len({trial.worker_id for trial in before[1:]}),
        "asks_per_second": round(asks, 2),
        "records_per_second": round(records, 2),
        "trials": len(trials),
    }


@contextmanager
def databases(*, server: bool) -> Iterator[Callable[[str, Path], str]]:
    """Yields a function that returns the URL of an empty database for a name and a folder."""
    if not server:
        yield lambda name, folder: sqlite_url(folder / "search.db")
        return
    with restartable_server() as (url, _), contextlib.ExitStack() as opened:
        yield lambda name, folder: opened.enter_context(new_database(url, name))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.workers.rates", description=__doc__)
    parser.add_argument("--counts", type=int, nargs="*", default=(1, 2, 4, 8, 16, 32))
    parser.add_argument("--seconds", type=float, default=15.0, help="length of the window")
    parser.add_argument("--server", action="store_true", help="PostgreSQL instead of SQLite")
    options = parser.parse_args()
    with databases(server=options.server) as new_url:
        for count in options.counts:
            with tempfile.TemporaryDirectory(prefix="vram-search-rates-") as name:
                folder = Path(name)
                url = new_url(f"rates-{count}", folder)
                print(
                    json.dumps(measure(folder / "study", url, count, options.seconds)), flush=True
                )


if __name__ == "__main__":
    main()
