"""One study that is killed again and again, and then finished."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.faults.invariants import Tally, compare, count_tracebacks, examine, finished_trials
from bench.faults.lean_trainer import BOUNDARIES
from bench.faults.supervisor import (
    HANG_SECONDS,
    Supervisor,
    kill_at,
    run_here,
    start,
    supervisor_boundaries,
)
from bench.tiny import TINY_CONFIG, TINY_SPACE
from vram_search.data import load_rows
from vram_search.spec.load import load_study
from vram_search.store import sqlite_url

LEAN = (sys.executable, "-I", "-S", str(Path(__file__).with_name("lean_trainer.py")))
FAKE = (sys.executable, "-P", str(Path(__file__).parents[2] / "tests" / "fake_trainer.py"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
KILLS_A_STUDY = 10
TRIAL_SECONDS = 5.0
"""Most seconds of a trial of the lean trainer on a busy machine."""


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        who: supervisor, trainer or both.
        boundary: of the training process, or `SUPERVISOR.before`, `SUPERVISOR.after`; empty for a
            random moment.
    """

    who: str
    number: int = signal.SIGKILL
    boundary: str = ""

    def __str__(self) -> str:
        where = self.boundary or "a random moment"
        return f"{signal.Signals(self.number).name} to {self.who} at {where}"


def every_boundary() -> list[Kill]:
    """A kill at each boundary, of each process that it can meet."""
    kills = [Kill(who, boundary=b) for b in BOUNDARIES for who in ("supervisor", "trainer", "both")]
    kills += [Kill("supervisor", number, "step") for number in SIGNALS[1:]]
    kills += [
        Kill("supervisor", boundary=f"{name}.{side}")
        for name in supervisor_boundaries()
        for side in ("before", "after")
    ]
    return kills


def random_kill(choose: random.Random) -> Kill:
    """A kill at a random moment."""
    who = choose.choice(("supervisor", "supervisor", "trainer", "both"))
    return Kill(who, choose.choice(SIGNALS) if who == "supervisor" else signal.SIGKILL)


class Night:
    """A study in a folder of its own.

    Args:
        trainer: command of its training process; None for the real one.
    """

    def __init__(
        self, folder: Path, trainer: Sequence[str] | None, choose: random.Random, tally: Tally
    ) -> None:
        self.folder, self.trainer, self.choose, self.tally = folder, trainer, choose, tally
        self.database, self.output = folder / "search.db", folder / "output.txt"
        self.study = write_study(folder)
        self.kill_file = folder / "kill"
        self.environment = {
            "VRAM_SEARCH_HOME": str(folder / "home"),
            "LEAN_READY": json.dumps(ready_of(self.study)),
            "LEAN_KILL": str(self.kill_file),
            "LEAN_STEP": "0.004",
            "LEAN_MIX": "1",
            "STAGE_SECONDS": "0.02",
        }
        self._typical_seconds = 25.0 if trainer is None else 0.8 if trainer is LEAN else 3.0

    def kill(self, kill: Kill) -> None:
        """Starts a run, kills it as asked, and compares what is recorded with what was."""
        before = finished_trials(self.database)
        run, hook = None, (lambda: None)
        if "." in kill.boundary:
            name, _, side = kill.boundary.partition(".")
            call = self.choose.choice((1, 1, 2))
            hook = kill_at(name, after=side == "after", call=call)
        elif kill.boundary:
            self.kill_file.write_text(f"{kill.boundary} {kill.who} {int(kill.number)}")
        run = self._start(1000, hook)
        children: list[int] = []
        if kill.boundary:
            children = self._wait_for_boundary(run, kill)
        else:
            time.sleep(self.choose.uniform(0, self._typical_seconds))
            children = self._send(run, kill)
        if kill.who == "trainer" and run.is_running():
            time.sleep(self.choose.uniform(0, self._typical_seconds))
            children = self._send(run, Kill("supervisor", self.choose.choice(SIGNALS)))
        self._expect_end(run, children, str(kill))
        compare(before, finished_trials(self.database), self.tally, str(kill))

    def finish(self, more: int = 2) -> None:
        """Runs the study to its end and examines everything that is left."""
        self.kill_file.unlink(missing_ok=True)
        trials = finished_trials(self.database).values()
        done = sum(outcome not in ("lost", "infeasible") for outcome, _, _ in trials)
        run = self._start(done + more)
        when = f"the last run in {self.folder.name}"
        limit = HANG_SECONDS + more * TRIAL_SECONDS
        if not run.wait(limit * (1 if self.trainer else 5)):
            self.tally.count("hangs", f"{when}\n{self._stacks()}")
            run.kill_group()
            run.wait()
        if run.code != 0:
            tail = self.output.read_text("utf-8", errors="replace")[-400:]
            self.tally.count("failed_runs", f"{when}: code {run.code}: {tail}")
        logs = list(self.folder.glob("search.db.files/*/*.log"))
        count_tracebacks([self.output, *logs], self.tally, when)
        examine(sqlite_url(self.database), self.tally, when)

    def _stacks(self) -> str:
        """The stacks that a hung supervisor wrote; `start` asks for them."""
        text = self.output.read_text("utf-8", errors="replace")
        return text[text.rfind("Timeout (") :] if "Timeout (" in text else text[-2000:]

    def _start(self, trials: int, hook: Any = lambda: None) -> Supervisor:
        self.tally.runs += 1
        arguments = ("run", self.study, "--trials", trials, "--database", self.database)
        return start(arguments, self.output, self.trainer, self.environment, hook)

    def _wait_for_boundary(self, run: Supervisor, kill: Kill) -> list[int]:
        """Waits for the kill that a process does by itself; a boundary may not be reached."""
        deadline = time.monotonic() + (20 if self.trainer is not None else 90)
        children: list[int] = []
        while run.is_running() and time.monotonic() < deadline:
            children = run.children() or children
            if kill.who == "trainer" and not self.kill_file.exists():
                self.tally.kills += 1
                return children
            time.sleep(0.005)
        if run.is_running():  # never reached: a random moment then
            self.kill_file.unlink(missing_ok=True)
            return self._send(run, Kill("supervisor"))
        self.tally.kills += 2 if kill.who == "both" else 1
        return children

    def _send(self, run: Supervisor, kill: Kill) -> list[int]:
        children = run.children()
        if not run.is_running():
            return children
        self.tally.kills += 1
        if kill.who == "both":
            self.tally.kills += bool(children)
            run.kill_group()
        elif kill.who == "supervisor":
            run.send(kill.number)
        elif children:
            os.kill(children[0], kill.number)
        else:
            run.send(signal.SIGKILL)
        return children

    def _expect_end(self, run: Supervisor, children: list[int], when: str) -> None:
        """The supervisor ends, and no training process outlives it."""
        if not run.wait():
            self.tally.count("hangs", f"the supervisor did not end: {when}\n{self._stacks()}")
            run.kill_group()
            run.wait()
        deadline = time.monotonic() + 20
        for child in children:
            while _is_alive(child):
                if time.monotonic() > deadline:
                    self.tally.count("hangs", f"a training process outlived: {when}")
                    break
                time.sleep(0.01)


def warm_up(folder: Path) -> None:
    """Runs a study of two trials in this process (`run_here`)."""
    night = Night(folder, LEAN, random.Random(0), Tally())
    arguments = ("run", night.study, "--trials", 2, "--database", night.database)
    run_here(arguments, LEAN, night.environment)


def _is_alive(pid: int) -> bool:
    """False for a process that ended and waits for its parent, too."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def write_study(folder: Path) -> Path:
    """Writes a study of a tiny random model with its rows."""
    shape = folder / "shape"
    shape.mkdir(parents=True)
    (shape / "config.json").write_text(json.dumps(TINY_CONFIG))
    rows = [{"instruction": f"What is {n} plus {n}?", "output": f"{2 * n}."} for n in range(24)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    study = {
        "study": "killed",
        "strategy": "random",
        "model": {"weights": "random", "shape": "shape"},
        "dataset": {"train": "rows.jsonl", "val_size": 4},
        "card": "rtx-5060-ti-16gb",
        "search_space": TINY_SPACE,
        "training": {"max_steps": 10, "rungs": [0.5]},
        "enqueue_priors": False,
        "budget": {"stop_early": False},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


def ready_of(study: Path) -> dict[str, Any]:
    """The report of a training process that has loaded the study's rows."""
    spec = load_study(study)
    rows = load_rows(spec.dataset, spec.seed)
    return {
        "device": "CPU",
        "has_gpu": False,
        "versions": {"lean_trainer": "1", "compute_dtype": "float32"},
        "train_rows": len(rows.train),
        "eval_rows": len(rows.eval),
        "longest_tokens": 90,
        "longest_eval_tokens": 90,
        "rows_cut": 0,
        "data_hash": rows.data_hash,
        "allocated_bytes": None,
        "seconds": 0.02,
        "import_seconds": 0.01,
    }
