"""Server, workers and two browsers for minutes, with random kills: `python -m bench.soak`.

One browser shows the first page to the owner; the other has a phone's width and the read-only link,
and shows the study's page. Trainings are those of tests/fake_trainer.py; everything else is the
product. A table is printed: requests, errors, lost events, kills, trials, growth of the server's
memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.conftest import start_cli, tiny_study
from tests.fake_trainer import COMMAND
from tests.report.browser.conftest import Browser
from vram_search.store import open_store, sqlite_url
from vram_search.store.events import events_after
from vram_search.units import KIB
from vram_search.web.token import Credentials

STUDY = "soak"
PATHS = (
    "/api/v1/studies",
    f"/api/v1/studies/{STUDY}/trials?limit=20",
    f"/api/v1/studies/{STUDY}/best",
    "/api/v1/queue",
    "/api/v1/metrics",
    "/",
    f"/studies/{STUDY}",
)
CALM_SHARE = 0.5
"""The server is killed in this first share of the time."""
WARM_SHARE = 0.1
"""Share of the time for the last server to import what it needs and to fill its caches. Growth is
the difference between the first and the last tenth of the time after that."""
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
AWAY = ("net::ERR_", "htmx:sendError", "htmx:sseError", "htmx:afterRequest", "[object Event]")
"""Parts of what a browser says while no server is there."""


@dataclass
class Soak:
    """One soak and its counts."""

    folder: Path
    port: int
    url: str
    draw: random.Random
    pause: float = 0.2
    server: subprocess.Popen[str] | None = None
    workers: list[subprocess.Popen[str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seen: set[int] = field(default_factory=set)
    page_errors: list[str] = field(default_factory=list)
    slowest: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        token = (self.folder / "home" / "service-token").read_text().strip()
        return {"Authorization": f"Bearer {token}"}

    def start_server(self) -> None:
        output = (self.folder / "server.log").open("a")
        words = (*COMMAND, "serve", "--port", str(self.port), "--folder", str(self.folder))
        self.server = subprocess.Popen(
            words, stdout=output, stderr=output, text=True, start_new_session=True
        )

    def start_worker(self) -> subprocess.Popen[str]:
        process = start_cli("worker", "--study", STUDY, "--beside", command=COMMAND)
        threading.Thread(target=_drain, args=(process,), daemon=True).start()
        return process

    def wait_for_server(self) -> None:
        for _ in range(300):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.address}/api/v1/health").status_code == 200:
                    return
            time.sleep(0.2)
        raise RuntimeError("the server does not answer")

    def ask(self) -> None:
        """Sends requests until the end; those that meet no server are counted apart."""
        with httpx.Client(base_url=self.address, headers=self.headers, timeout=30) as client:
            while not self.ended.wait(self.pause):
                path = self.draw.choice(PATHS)
                began = time.monotonic()
                try:
                    answer = client.get(path)
                except httpx.TransportError:
                    self.counts["requests that met no server"] += 1
                    continue
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.counts["requests answered"] += 1
                self.counts["of them with an error"] += answer.status_code >= 400
                if answer.status_code >= 400:
                    self.counts[f"status {answer.status_code} {path}"] += 1

    def read_events(self) -> None:
        """Reads the event stream; after each interruption it goes on after the last id."""
        last = 0
        while not self.ended.is_set():
            headers = {**self.headers, "Last-Event-ID": str(last)}
            with (
                contextlib.suppress(httpx.TransportError),
                httpx.stream(
                    "GET", f"{self.address}/api/v1/events", headers=headers, timeout=60
                ) as stream,
            ):
                self.counts["event streams"] += 1
                for line in stream.iter_lines():
                    if line.startswith("id: "):
                        last = int(line.removeprefix("id: "))
                        self.counts["events repeated"] += last in self.seen
                        self.seen.add(last)
                    if self.ended.is_set():
                        break
            time.sleep(0.3)

    def kill_one(self, may_kill_server: bool) -> None:
        """Kills a worker, the study's own run, or the server, and starts it again."""
        what = self.draw.choices(("worker", "run", "server"), (6, 2, 2))[0]
        if what == "server" and may_kill_server and self.server is not None:
            self.server.kill()
            self.server.wait()
            self.start_server()
            self.wait_for_server()
        elif what == "run":
            entries = self.queue()
            pids = [e["pid"] for e in entries["entries"] if e["is_detached"] and e["pid"]]
            if not pids:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], 9)
        else:
            what, place = "worker", self.draw.randrange(len(self.workers))
            self.workers[place].kill()
            self.workers[place].wait()
            self.workers[place] = self.start_worker()
        self.counts[f"kills of {what}"] += 1

    def queue(self) -> dict[str, Any]:
        """The queue, also from a server that is slow on a busy machine."""
        address = f"{self.address}/api/v1/queue"
        answer: dict[str, Any] = httpx.get(address, headers=self.headers, timeout=120).json()
        return answer

    def revive(self) -> None:
        """Starts workers again that have ended, and the study if its run was given up."""
        for place, process in enumerate(self.workers):
            if process.poll() is not None:
                self.counts["workers that ended"] += 1
                self.workers[place] = self.start_worker()
        entries = self.queue()
        if not any(entry["is_detached"] for entry in entries["entries"]):
            self.counts["study queued again"] += 1
            self.queue_study()

    def queue_study(self) -> None:
        study = tiny_study(
            self.folder,
            study=STUDY,
            strategy="random",
            budget={"trials": 100_000, "stop_early": False},
        )
        study["search_space"]["learning_rate"] = {"min": 1e-5, "max": 1e-2}
        body = {"study_file": yaml.safe_dump(study)}
        httpx.post(
            f"{self.address}/api/v1/studies", json=body, headers=self.headers, timeout=60
        ).raise_for_status()


def _drain(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for _ in process.stdout:
        pass


def resident_bytes(pid: int) -> int:
    """Main memory of a process (Linux)."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) * KIB


@contextlib.contextmanager
def open_pages(soak: Soak) -> Iterator[list[Browser]]:
    """Browsers of the owner and of a phone with the read-only link; none without Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    owner = Credentials(soak.headers["Authorization"].split()[1])
    with contextlib.ExitStack() as opened:
        pages: list[Browser] = []
        for token, path in ((owner.token, "/"), (owner.viewer_token, f"/studies/{STUDY}")):
            if program is None:
                break
            browser = Browser(program, soak.folder / f"profile-{len(pages)}")
            opened.callback(browser.close)
            browser.open_page()
            if path != "/":
                browser.send("Emulation.setDeviceMetricsOverride", **PHONE)
            browser.open(f"{soak.address}/?token={token}")
            browser.open(f"{soak.address}{path}")
            pages.append(browser)
        yield pages


def read_messages(soak: Soak, pages: list[Browser]) -> None:
    """Counts what the browsers have said since the last time."""
    for page in pages:
        page.eval("1")  # reads it
        for said in page.errors():
            if any(words in said for words in AWAY):
                soak.counts["messages of the pages while the server was away"] += 1
            else:
                soak.page_errors.append(said[:200])
        page.events.clear()


def run(
    minutes: float, workers: int, seed: int, folder: Path, *, pause: float, kill_seconds: float
) -> dict[str, Any]:
    """Runs a soak and returns its counts.

    Args:
        pause: seconds between two requests.
        kill_seconds: seconds between two kills.
    """
    os.environ["VRAM_SEARCH_HOME"] = str(folder / "home")
    os.environ.pop("VRAM_SEARCH_DATABASE", None)
    os.environ.setdefault("STAGE_SECONDS", "1")
    url = sqlite_url(folder / "home" / "vram-search.db")
    soak = Soak(folder, 18416, url, random.Random(seed), pause)
    soak.start_server()
    memory: list[int] = []
    load = os.getloadavg()[0]
    try:
        soak.wait_for_server()
        soak.queue_study()
        _wait_for_study(soak)
        soak.workers = [soak.start_worker() for _ in range(workers)]
        readers = [threading.Thread(target=t, daemon=True) for t in (soak.ask, soak.read_events)]
        for reader in readers:
            reader.start()
        with open_pages(soak) as pages:
            began, killed = time.monotonic(), time.monotonic()
            while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
                time.sleep(1)
                read_messages(soak, pages)
                if time.monotonic() - killed > kill_seconds:
                    killed = time.monotonic()
                    soak.kill_one(share < CALM_SHARE)
                    soak.revive()
                if share > CALM_SHARE + WARM_SHARE and soak.server is not None:
                    memory.append(resident_bytes(soak.server.pid))
            soak.counts["pages that are live at the end"] = sum(map(is_live, pages))
        time.sleep(5)  # the reader of events gets the last ones
        soak.ended.set()
        result = _result(soak, minutes, memory)
        return {**result, "load, first and last": f"{load:.0f}, {os.getloadavg()[0]:.0f}"}
    finally:
        soak.ended.set()
        _end(soak)


def is_live(page: Browser) -> bool:
    """Returns True if the page shows more than an error."""
    return bool(page.eval("document.body.innerText.length > 100"))


def _wait_for_study(soak: Soak) -> None:
    for _ in range(600):
        answer = httpx.get(
            f"{soak.address}/api/v1/studies/{STUDY}/trials", headers=soak.headers, timeout=120
        )
        trials = answer.json()["trials"] if answer.status_code == 200 else []
        if any(trial["outcome"] == "complete" for trial in trials):
            return  # else there is no best trial to ask for
        time.sleep(0.3)
    raise RuntimeError("the study does not start")


def _end(soak: Soak) -> None:
    with contextlib.suppress(httpx.TransportError):
        entries = httpx.get(f"{soak.address}/api/v1/queue", headers=soak.headers).json()["entries"]
        for entry in entries:
            path = f"/api/v1/queue/{entry['id']}/cancel"
            httpx.post(f"{soak.address}{path}", headers=soak.headers)
        time.sleep(4)
    for process in (*soak.workers, soak.server):
        if process is not None and process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def _result(soak: Soak, minutes: float, memory: list[int]) -> dict[str, Any]:
    with closing(open_store(soak.url, create=False)) as store:
        recorded: list[int] = []
        while found := events_after(store.engine, recorded[-1] if recorded else 0):
            recorded += [event.id for event in found]
        study = store.study(STUDY)
        assert study is not None
        outcomes = store.outcome_counts(study.id)
        ended = [t for t in store.trials(study.id) if t.outcome == "complete"]
        complete = [t.hyperparameters for t in ended]
    # An event of the last second may not have been sent yet.
    newest = max(soak.seen, default=0)
    lost = [one for one in recorded if one <= newest and one not in soak.seen]
    points = {json.dumps(point, sort_keys=True) for point in complete}
    tenth = max(1, len(memory) // 10)
    tenths = [statistics.fmean(memory[n * tenth :][:tenth]) for n in range(len(memory) // tenth)]
    first, last = tenths[0], statistics.fmean(memory[-tenth:])
    return {
        "minutes": minutes,
        "requests answered": 0,
        "of them with an error": 0,
        "requests that met no server": 0,
        **dict(sorted(soak.counts.items())),
        "slowest answer": f"{soak.slowest:.1f} s",
        "events recorded": len(recorded),
        "events received": len(soak.seen),
        "events lost": len(lost),
        "trials": ", ".join(f"{count} {name}" for name, count in outcomes.items() if count),
        "points that are complete twice": len(complete) - len(points),
        "errors on the pages": len(soak.page_errors),
        **{f"error on a page: {said}": "" for said in dict.fromkeys(soak.page_errors[:20])},
        "memory of the server, each tenth": ", ".join(f"{one / 1e6:.1f} MB" for one in tenths),
        "memory of the server, first and last": f"{first / 1e6:.1f} MB, {last / 1e6:.1f} MB",
        "its growth (goal: less than 5 %)": f"{100 * (last / first - 1):+.1f} %",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between requests")
    parser.add_argument("--kill-seconds", type=float, default=15.0, help="seconds between kills")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vs-soak-", ignore_cleanup_errors=True) as folder:
        result = run(
            options.minutes,
            options.workers,
            options.seed,
            Path(folder),
            pause=options.pause,
            kill_seconds=options.kill_seconds,
        )
    print("| what | count |\n| --- | --- |")
    for name, value in result.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
