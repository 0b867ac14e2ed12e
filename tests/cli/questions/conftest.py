"""A search of a few trials whose answers are known, and the command line in this process."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import update

from tests.factories import HYPERPARAMETERS, PLAN
from vram_search.cli.main import main
from vram_search.store import (
    Evaluation,
    Outcome,
    Store,
    TrialResult,
    open_store,
    sqlite_url,
)
from vram_search.store.tables import trials as trials_table
from vram_search.units import GIB

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
TOKENS = 80
"""Answer tokens of the evaluation set's four examples."""
RUNGS = (1 / 9, 1 / 3)


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        answer: dict[str, Any] = json.loads(self.out)
        return answer

    @property
    def csv(self) -> list[dict[str, str]]:
        assert self.code == 0, self.err
        return list(csv.DictReader(io.StringIO(self.out)))

    @property
    def words(self) -> str:
        """The output without its line breaks; no line is wider than a terminal."""
        assert self.code == 0, self.err
        assert max(map(len, self.out.splitlines())) <= 80
        return " ".join(self.out.split())


Ask = Callable[..., Answer]


@pytest.fixture
def ask(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """`ask("best", "--json")`."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["vram-search", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Answer(ended.value.code, out, err)

    return run


class Search:
    """Writes trials into a study, each ten minutes after the one before."""

    def __init__(self, store: Store) -> None:
        self.store = store
        spec = {"training": {"rungs": RUNGS}}
        card = {"name": "rtx-5060-ti-16gb", "title": "a card"}
        self.study = store.create_study("night", spec, "d1", card, {"name": "a model"})
        self.count = 0

    def choose_by(self, *strategies: list[Any]) -> None:
        """Pairs of a trial's number and the strategy from there on, as a run records them."""
        spec = {**self.study.spec, "strategies": list(strategies)}
        self.study = self.store.refresh_study(self.study.id, spec)

    def add(
        self,
        outcome: Outcome | None = "complete",
        loss: float | None = 1.0,
        gib: float | None = 8,
        *,
        shifts: list[float] | None = None,
        hyperparameters: dict[str, Any] | None = None,
        plan: dict[str, Any] | None = None,
        predicted: dict[str, Any] | None = None,
        minutes: float = 10,
        retry_of: int | None = None,
        **result: Any,
    ) -> int:
        """A trial; its number.

        Args:
            shifts: summed nats by which its four examples are above 20 each, at the end.
        """
        number, self.count = self.count, self.count + 1
        hp = {**HYPERPARAMETERS, **(hyperparameters or {})}
        trial = self.store.start_trial(self.study.id, number, hp, 42, "d1", retry_of)
        if gib is not None:
            judged = {"required_bytes": round(gib * GIB), **(predicted or {})}
            self.store.record_plan(trial, {**PLAN, **(plan or {})}, judged)
        if outcome is None:
            return number
        if shifts is not None:
            sums = [20 + shift for shift in shifts]
            loss = sum(sums) / TOKENS
            result["evaluations"] = [Evaluation(54, 1.0, loss, example_loss_sums=sums)]
        result = {"eval_loss_step": 54, "steps_done": 54, "steps_total": 54, **result}
        self.store.finish_trial(trial, TrialResult(outcome, eval_loss=loss, **result))
        self._set_clock(trial, number, minutes)
        return number

    def _set_clock(self, trial_id: int, number: int, minutes: float) -> None:
        began = BEGAN + timedelta(minutes=10 * number)
        times = {"started_at": began, "finished_at": began + timedelta(minutes=minutes)}
        with self.store.engine.begin() as connection:
            change = update(trials_table).where(trials_table.c.id == trial_id)
            connection.execute(change.values(**times))


@pytest.fixture
def search(home: Path) -> Iterator[Search]:
    """An empty study in the database that `ask` reads."""
    store = open_store(sqlite_url(home / "vram-search.db"), create=True)
    yield Search(store)
    store.close()
