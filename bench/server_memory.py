"""Memory of the server while a study grows: `python -m bench.server_memory --trials 2000`.

A few trials are made by tests/fake_trainer.py and then copied at a given rate, while clients read
all pages and one reads the events. It prints the server's memory twenty times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import yaml
from sqlalchemy import Connection, Table, insert, literal, select

from bench.soak import PATHS, STUDY, resident_bytes
from tests.conftest import tiny_study
from tests.fake_trainer import COMMAND
from vram_search.store import Store, open_store, sqlite_url
from vram_search.store.database import writing
from vram_search.store.events import append_event
from vram_search.store.tables import evaluations, step_losses, trials

FIRST_TRIALS = 12
PORT = 18417


def make_study(folder: Path) -> None:
    """Runs a study of a few trials."""
    budget = {"trials": FIRST_TRIALS, "stop_early": False}
    study = tiny_study(folder, study=STUDY, strategy="random", budget=budget)
    study["search_space"]["learning_rate"] = {"min": 1e-5, "max": 1e-2}
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    subprocess.run([*COMMAND, "run", str(file)], check=True, stdout=subprocess.DEVNULL)


def copy_trial(store: Store, original: int, number: int) -> None:
    """Records a copy of a trial (row id) with its losses, as the next number of its study."""
    with writing(store.engine) as connection:
        new = _copy(connection, trials, trials.c.id == original, id=None, number=number)
        for table in (step_losses, evaluations):
            _copy(connection, table, table.c.trial_id == original, trial_id=new)
        append_event(connection, "trial_ended", STUDY, number, outcome="complete")


def _copy(connection: Connection, table: Table, where: object, **changes: object) -> int:
    """Copies rows within a table and returns the id of the last one."""
    left_out = {name for name, value in changes.items() if value is None}
    columns = [column for column in table.c if column.name not in left_out]
    values = [literal(changes[c.name]) if c.name in changes else c for c in columns]
    rows = select(*values).where(where)  # type: ignore[arg-type]
    made = connection.execute(insert(table).from_select(columns, rows))
    return int(made.lastrowid)


class Clients:
    """Clients that read pages and events until `end` is called."""

    def __init__(self, token: str, count: int, pause: float) -> None:
        self._headers = {"Authorization": f"Bearer {token}"}
        self._pause = pause
        self._ended = threading.Event()
        self.requests = 0
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in (*self._threads, threading.Thread(target=self._read_events, daemon=True)):
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        draw = random.Random()
        with httpx.Client(base_url=_address(), headers=self._headers, timeout=120) as client:
            while not self._ended.wait(self._pause):
                path = draw.choice((*PATHS, "/parts/now", f"/studies/{STUDY}/charts"))
                client.get(path).raise_for_status()
                self.requests += 1

    def _read_events(self) -> None:
        with (
            contextlib.suppress(httpx.TransportError),  # the server ends first
            httpx.stream(
                "GET", f"{_address()}/api/v1/events", headers=self._headers, timeout=120
            ) as stream,
        ):
            for _ in stream.iter_lines():
                if self._ended.is_set():
                    return


def _address() -> str:
    return f"http://127.0.0.1:{PORT}"


@contextlib.contextmanager
def server(folder: Path) -> Iterator[int]:
    """The product's server in a process of its own; yields its process id."""
    words = (*COMMAND, "serve", "--port", str(PORT), "--folder", str(folder))
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        for _ in range(300):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{_address()}/api/v1/health").status_code == 200:
                    break
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def run(folder: Path, most: int, rate: float, clients: int, pause: float) -> None:
    """Grows the study to so many trials at a rate per second, and prints the memory."""
    os.environ["VRAM_SEARCH_HOME"] = str(folder / "home")
    make_study(folder)
    url = sqlite_url(folder / "home" / "vram-search.db")
    with closing(open_store(url, create=False)) as store, server(folder) as pid:
        study = store.study(STUDY)
        assert study is not None
        originals = [trial.id for trial in store.trials(study.id)]
        token = (folder / "home" / "service-token").read_text().strip()
        readers = Clients(token, clients, pause)
        began = time.monotonic()
        for number in range(len(originals), most + 1):
            copy_trial(store, originals[number % len(originals)], number)
            if number % (most // 20) == 0:
                figures = {
                    "seconds": round(time.monotonic() - began),
                    "trials": number,
                    "requests": readers.requests,
                    "megabytes": round(resident_bytes(pid) / 1e6, 1),
                }
                print(json.dumps(figures), flush=True)
            time.sleep(max(0.0, number / rate - (time.monotonic() - began)))
        readers.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help="trials at the end")
    parser.add_argument("--rate", type=float, default=8.0, help="new trials per second")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between requests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vs-memory-", ignore_cleanup_errors=True) as folder:
        run(Path(folder), options.trials, options.rate, options.clients, options.pause)


if __name__ == "__main__":
    main()
