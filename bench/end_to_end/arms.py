"""The searches that are compared, each one task with one seed.

`Ours` is the product's command line as it is. `Tpe` is Optuna's TPESampler with its defaults and
without pruning, which starts a process per trial.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from bench.end_to_end.processes import end, start
from bench.end_to_end.records import Record
from bench.end_to_end.task import Task
from vram_search.errors import StoreError, VramSearchError
from vram_search.spec import Hyperparameters, SearchSpace, StudySpec
from vram_search.spec.hyperparameters import BY_NAME, DIMENSIONS, Ratio
from vram_search.spec.space_parts import NumberRange
from vram_search.store import Store, open_store, sqlite_url
from vram_search.worker.process import log_tail

RUN_COMMAND = (sys.executable, "-m", "vram_search", "run")
TRIAL_COMMAND = (sys.executable, "-m", "bench.end_to_end.trial")
DEATHS_IN_A_ROW = 3
"""Trial processes that end without an answer: then the bench is at fault."""
NO_ANSWER: dict[str, Any] = {"outcome": "lost", "eval_loss": None}
READ_SECONDS = 1.0
"""Between two looks into a database; the record itself says when a trial ended."""
GRACE_SECONDS = 20.0
"""For `vram-search run` to put its record in order."""


class Search(Protocol):
    """One arm's search of a task with a seed; it runs from its making on."""

    began: float
    """Seconds since the epoch."""

    @property
    def is_over(self) -> bool:
        """It starts no more trials."""
        ...

    def poll(self) -> list[Record]:
        """Trials that ended since the last call.

        Raises:
            VramSearchError: the search has failed.
        """
        ...

    def close(self) -> list[Record]:
        """Ends its processes; trials that ended since `poll`."""
        ...


class Ours:
    """`vram-search run STUDY`, with a database of its own.

    Args:
        folder: for the database and what lies beside it.
        log: file that its output is appended to.
    """

    def __init__(
        self,
        task: Task,
        seed: int,
        hours: float,
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.task, self.seed, self.log = task, seed, log
        self._database = folder / f"{task.name}-{seed}" / "search.db"
        self._known: set[int] = set()
        self._read_at = 0.0
        command = [*RUN_COMMAND, str(task.file)]
        command += ["--database", str(self._database), "--hours", str(hours)]
        for override in (*task.overrides, f"seed={seed}"):
            command += ["--set", override]
        self.began = time.time()
        self._process = start(command, log, environment)

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def poll(self) -> list[Record]:
        if self._process.poll() not in (None, 0):
            raise VramSearchError(
                f"vram-search run ended with code {self._process.returncode}; the end of its "
                f"output:\n{log_tail(self.log)}",
                f"the whole output: {self.log}",
            )
        if time.monotonic() < self._read_at + READ_SECONDS:
            return []
        return self._read()

    def close(self) -> list[Record]:
        end(self._process, GRACE_SECONDS)
        return self._read()

    def _read(self) -> list[Record]:
        self._read_at = time.monotonic()
        try:
            opened = open_store(sqlite_url(self._database), create=False)
        except StoreError:
            return []  # not made yet
        with contextlib.closing(opened) as store:
            found = recorded(store, self.task.name, self.seed, self.began)
        new = [record for record in found if record.number not in self._known]
        self._known |= {record.number for record in new}
        return new


def recorded(store: Store, task: str, seed: int, began: float) -> list[Record]:
    """The finished trials of a study's record.

    Args:
        task: the study's name.
        began: when the search's process started, seconds since the epoch.
    """
    study = store.study(task)
    return [
        Record(
            arm="ours",
            task=task,
            seed=seed,
            elapsed_seconds=round(trial.finished_at.timestamp() - began, 3),
            eval_loss=trial.eval_loss,
            number=trial.number,
            outcome=trial.outcome,
        )
        for trial in (store.trials(study.id) if study else [])
        if trial.outcome is not None and trial.finished_at is not None
    ]


class Tpe:
    """Optuna's TPESampler over the study's space: ask, a fresh process, tell.

    Args:
        log: file that the processes' standard error is appended to.
        command: of a trial; reads its job and answers as `bench.end_to_end.trial` does.
    """

    is_over = False

    def __init__(
        self,
        task: Task,
        seed: int,
        log: Path,
        environment: Mapping[str, str],
        command: Sequence[str] = TRIAL_COMMAND,
    ) -> None:
        self.task, self.seed, self.log = task, seed, log
        self._environment, self._command = environment, command
        self._load = task.load_job(seed).model_dump(mode="json")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna_study = optuna.create_study(sampler=TPESampler(seed=seed))
        self._deaths = 0
        self.began = time.time()
        self._ask()

    def poll(self) -> list[Record]:
        if self._process.poll() is None:
            return []
        record = self._tell()
        self._ask()
        return [record]

    def close(self) -> list[Record]:
        end(self._process)
        return []

    def _ask(self) -> None:
        self._trial = self.optuna_study.ask(distributions(self.task.study.space))
        hp = hyperparameters(self._trial.params, self.task.study)
        job = self.task.trial_job(self._trial.number, hp, self.seed).model_dump(mode="json")
        with tempfile.TemporaryFile("w+", encoding="utf-8") as stdin:
            json.dump({"load": self._load, "trial": job}, stdin)
            stdin.seek(0)
            self._process = start(
                self._command, self.log, self._environment, stdin=stdin, stdout=subprocess.PIPE
            )

    def _tell(self) -> Record:
        """As people's scripts do: no memory or no finite loss is a pruned trial, an error a failed
        one."""
        elapsed = time.time() - self.began
        output, _ = self._process.communicate()
        died = self._process.returncode != 0
        answer: dict[str, Any] = NO_ANSWER if died else json.loads(output)
        self._deaths = self._deaths + 1 if died else 0
        if self._deaths >= DEATHS_IN_A_ROW:
            raise VramSearchError(
                f"{self._deaths} trial processes in a row died; the end of their log:\n"
                f"{log_tail(self.log)}",
                f"the whole log: {self.log}",
            )
        if answer["outcome"] == "complete":
            self.optuna_study.tell(self._trial, answer["eval_loss"])
        else:
            state = TrialState.FAIL if died else TrialState.PRUNED
            self.optuna_study.tell(self._trial, state=state)
        number = self._trial.number
        return Record("tpe", self.task.name, self.seed, round(elapsed, 3), number=number, **answer)


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The searched part of the space as a script writes it: categories, and ranges of numbers."""
    found: dict[str, BaseDistribution] = {}
    for dimension in filter(space.is_searched, DIMENSIONS):
        options = space.options(dimension)
        if isinstance(options, NumberRange):
            is_log = dimension.kind == "log"
            found[dimension.name] = FloatDistribution(options.min, options.max, log=is_log)
        else:
            choices = [one.times if isinstance(one, Ratio) else one for one in options]
            found[dimension.name] = CategoricalDistribution(choices)
    return found


def hyperparameters(params: Mapping[str, Any], study: StudySpec) -> Hyperparameters:
    """Optuna's parameters, completed by what the study pins."""
    chosen = dict(params)
    for name in params:
        options = study.space.options(BY_NAME[name])
        if isinstance(options, tuple) and isinstance(options[0], Ratio):
            chosen[name] = Ratio(params[name])
    return study.space.point(chosen)
