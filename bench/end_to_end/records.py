"""What a run of the bench leaves in its folder: `run.json` and a line per trial that ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from bench.curves.rows import append
from vram_search.errors import InputError
from vram_search.store import Outcome

Arm = Literal["ours", "tpe"]
ARMS: tuple[Arm, ...] = ("ours", "tpe")


@dataclass(frozen=True)
class Record:
    """A trial that ended.

    Attributes:
        elapsed_seconds: from the start of the search's first process to the trial's end.
        eval_loss: of the best evaluated checkpoint, nats per answer token.
        number: within its search.
    """

    arm: Arm
    task: str
    seed: int
    elapsed_seconds: float
    eval_loss: float | None
    number: int
    outcome: Outcome


@dataclass(frozen=True)
class Run:
    """What was compared.

    Attributes:
        minutes: of each search.
        device: and the card that it plays.
        finished: tasks whose searches had all of their time.
    """

    tasks: tuple[str, ...]
    seeds: int
    minutes: float
    device: str
    finished: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return 60 * self.minutes

    @property
    def searches(self) -> int:
        """Side by side on the card."""
        return len(ARMS) * self.seeds

    def with_finished(self, task: str) -> Run:
        return replace(self, finished=(*self.finished, task))


class RunFolder:
    """Reads and writes a run's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run, self._records = folder / "run.json", folder / "records.jsonl"

    def begin(self, run: Run) -> None:
        """Makes the folder.

        Raises:
            InputError: it holds a run already, or cannot be written.
        """
        if self._run.exists():
            raise InputError(
                f"{self.folder} holds an earlier run",
                f"choose another --out; --from {self.folder} prints its table",
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._records.touch()
            self.write_run(run)
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be written ({error})", "choose another --out"
            ) from None

    def write_run(self, run: Run) -> None:
        self._run.write_text(json.dumps(asdict(run)) + "\n", encoding="utf-8")

    def add(self, record: Record) -> None:
        """One write: whoever ends this process leaves whole lines."""
        append(self._records, asdict(record))

    def read(self) -> tuple[Run, list[Record]]:
        """The run and its trials in the order in which they were written.

        Raises:
            InputError: the folder holds no run of this bench.
        """
        try:
            run = json.loads(self._run.read_text(encoding="utf-8"))
            # What follows the last line break was cut off.
            lines = self._records.read_text(encoding="utf-8").split("\n")[:-1]
            records = [Record(**json.loads(line)) for line in lines]
            names = {name: tuple(run[name]) for name in ("tasks", "finished")}
            return Run(**{**run, **names}), records
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self.folder}: no run of this bench ({error})", "name an earlier --out"
            ) from None
