"""Counts what a killed search has lost, doubled or left behind."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vram_search.store import TrialRecord, open_store
from vram_search.store.retries import may_retry
from vram_search.upkeep.check import check_database

Finished = dict[int, tuple[str, float | None, int]]
"""Outcome, eval_loss and steps of each finished trial by its number."""


@dataclass
class Tally:
    """The table of a series of kills."""

    kills: int = 0
    runs: int = 0
    trials: int = 0
    lost: int = 0
    """Finished trials that are gone or changed, and lost ones that were never repeated."""
    doubled: int = 0
    """Trials that were run twice although the first one was not lost."""
    disagreements: int = 0
    """Trials of which record and Optuna differ after the last run."""
    leftovers: int = 0
    """Folders and values that `db check` finds fault with after the last run."""
    tracebacks: int = 0
    hangs: int = 0
    """Processes that did not end, and training processes that outlived their supervisor."""
    failed_runs: int = 0
    """Last runs that did not end with code 0."""
    details: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Adds the figures of another series."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def count(self, name: str, what: str) -> None:
        """Counts one fault and keeps a sentence about it."""
        setattr(self, name, getattr(self, name) + 1)
        self.details.append(f"{name}: {what}")

    @property
    def is_clean(self) -> bool:
        """True if nothing went wrong."""
        return not self.details


def finished_trials(database: Path) -> Finished:
    """The finished trials, read as a stranger would: with plain SQL."""
    if not database.exists():
        return {}
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        try:
            rows = connection.execute(
                "SELECT number, outcome, eval_loss, steps_done FROM vs_trials "
                "WHERE outcome IS NOT NULL"
            ).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return {}
            raise
    return {number: (outcome, loss, steps) for number, outcome, loss, steps in rows}


def compare(before: Finished, after: Finished, tally: Tally, when: str) -> None:
    """Counts finished trials that a kill has removed or changed."""
    for number, trial in before.items():
        if after.get(number) != trial:
            tally.count("lost", f"trial {number} {trial} became {after.get(number)} ({when})")


def examine(url: str, tally: Tally, when: str) -> None:
    """Counts what is wrong after the last run of a study."""
    with closing(open_store(url, create=False)) as store:
        (study,) = store.studies()
        trials = store.trials(study.id)
        found = check_database(store)
    tally.trials += len(trials)
    _count_repetitions(trials, tally, when)
    for one in found.optuna:
        tally.count("disagreements", f"{one} ({when})")
    if found.optuna_problem:
        tally.count("disagreements", f"{found.optuna_problem} ({when})")
    faults = (found.integrity, found.foreign_keys, found.damaged, found.dead, found.leftovers)
    for fault in (*(item for part in faults for item in part), *found.missing_adapters):
        tally.count("leftovers", f"{fault} ({when})")


def _count_repetitions(trials: list[TrialRecord], tally: Tally, when: str) -> None:
    by_number = {trial.number: trial for trial in trials}
    repeated = Counter(trial.retry_of for trial in trials if trial.retry_of is not None)
    for number, times in repeated.items():
        again = [trial for trial in trials if trial.retry_of == number]
        if by_number[number].outcome != "lost":
            tally.count("doubled", f"trial {number} was not lost and is repeated ({when})")
        elif times > 1:
            tally.count("doubled", f"trial {number} is repeated by {len(again)} trials ({when})")
    for trial in trials:
        if trial.outcome == "lost" and trial.number not in repeated and may_retry(trial, trials):
            tally.count("lost", f"trial {trial.number} was lost and not repeated ({when})")


def count_tracebacks(files: list[Path], tally: Tally, when: str) -> None:
    """Counts tracebacks in output and logs, and keeps the lines of each."""
    for file in files:
        text = file.read_text("utf-8", errors="replace") if file.exists() else ""
        for following in text.split("Traceback (most recent call last)")[1:]:
            lines = "\n".join(following.splitlines()[:40])
            tally.count("tracebacks", f"{file.name}: Traceback{lines} ({when})")
