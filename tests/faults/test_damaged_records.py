"""Any value in any cell of the record: every command that reads answers, or says what is wrong."""

from __future__ import annotations

import json
import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.factories import HYPERPARAMETERS, PLAN
from vram_search.cli.main import main
from vram_search.store import Evaluation, StepLoss, TrialResult, open_store, sqlite_url

BYTES = {"required_bytes": 5e9, "allocated_bytes": 4e9, "parts": {"weights": 2e9}, "margin": 0.02}
COMMANDS = (
    ["top"],
    ["top", "--all"],
    ["top", "--all", "--csv"],
    ["show", "0"],
    ["show", "best", "--json"],
    ["compare", "0", "1"],
    ["best"],
    ["pareto"],
    ["importance"],
    ["why", "1"],
    ["studies"],
    ["report", "--output", "report.html"],
)
HOSTILE = (
    None,
    "text",
    "",
    b"\xff\x00",
    -1,
    2**62,
    1e308,
    "{}",
    "[]",
    "null",
    "{",
    '{"a": 1}',
    '"x"',
    "[[1]]",
    "1" * 400,
    '{"lora_rank": "many", "learning_rate": null, "optim": 5}',
    '{"required_bytes": "many", "parts": [1], "by_phase": {"train": 3}, "margin": "x"}',
    '{"message": 5, "stage": ["x"], "parts": {"weights": "x"}, "batch_shape": "x"}',
    '{"train": "long", "eval": {}}',
    '{"model": "x", "settings": 5, "reported": [], "notes": "x", "source": 7}',
)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "search.db"
    monkeypatch.chdir(tmp_path)
    with closing(open_store(sqlite_url(file), create=True)) as store:
        study = store.create_study(
            "demo", {"training": {"rungs": [0.5]}}, "d1", {"title": "a card"}, {"name": "a model"}
        )
        for number in range(3):
            trial_id = store.start_trial(study.id, number, HYPERPARAMETERS, seed=1, data_hash="d1")
            store.record_plan(trial_id, PLAN, BYTES | {"budget_bytes": 8e9, "excess": -0.1})
            store.finish_trial(
                trial_id,
                TrialResult(
                    "pruned" if number == 1 else "complete",
                    eval_loss=1.0 + number,
                    eval_loss_step=10,
                    measured=BYTES,
                    seconds={"train": 5.0},
                    versions={"torch": "2"},
                    device="a card",
                    error={"stage": "train", "message": "stopped at a rung"},
                    step_losses=[StepLoss(1, 2.0), StepLoss(2, 1.5)],
                    evaluations=[
                        Evaluation(5, 0.5, 2.0, example_loss_sums=[1.0, 2.0], seconds=1.0),
                        Evaluation(10, 1.0, 1.0 + number, example_loss_sums=[1.0, 2.0 + number]),
                    ],
                ),
            )
    return file


def damage(file: Path, table: str, column: str, value: Any, row: int) -> None:
    """As another program could write it; constraints of types do not exist in SQLite."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
            connection.commit()
        except sqlite3.IntegrityError:
            pass  # NULL where the table allows none


def columns_of(file: Path) -> list[tuple[str, str]]:
    tables = ("vs_trials", "vs_studies", "vs_evaluations", "vs_step_losses")
    keys = {"id", "study_id", "trial_id"}
    with closing(sqlite3.connect(file)) as connection:
        return [
            (table, row[1])
            for table in tables
            for row in connection.execute(f"PRAGMA table_info({table})")
            if row[1] not in keys
        ]


def ends_in_words(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["vram-search", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def check(database: Path, monkeypatch: pytest.MonkeyPatch, seed: int, rounds: int) -> list[str]:
    """Damages one cell a round; returns what ended in a traceback."""
    choose = random.Random(seed)
    whole, columns = database.read_bytes(), columns_of(database)
    faults = []
    for _ in range(rounds):
        for leftover in database.parent.glob("search.db-*"):
            leftover.unlink()
        database.write_bytes(whole)
        table, column = choose.choice(columns)
        value, row = choose.choice(HOSTILE), choose.choice((1, 2, 3))
        damage(database, table, column, value, row)
        command = choose.choice(COMMANDS)
        try:
            ends_in_words([*command, "--database", str(database)], monkeypatch)
        except Exception as error:
            import traceback

            last = traceback.extract_tb(error.__traceback__)[-1]
            faults.append(
                f"{table}.{column} = {value!r}: {' '.join(command)}: "
                f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
            )
    return faults


def test_no_value_in_the_record_ends_a_command_in_a_traceback(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(database, monkeypatch, seed=1, rounds=60) == []
    capsys.readouterr()


@pytest.mark.parametrize("command", [["top", "--all"], ["report", "--output", "r.html"], ["best"]])
def test_damaged_trial_does_not_hide_the_others(
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    for column in ("hyperparameters", "measured", "seconds", "started_at", "eval_loss"):
        damage(database, "vs_trials", column, "{", 3)
    assert ends_in_words([*command, "--database", str(database)], monkeypatch) == 0
    capsys.readouterr()


def test_damaged_values_are_named(database: Path) -> None:
    damage(database, "vs_trials", "measured", json.dumps({"required_bytes": "x", "a": 1}), 1)
    damage(database, "vs_trials", "eval_loss", "low", 1)
    with closing(open_store(sqlite_url(database), create=False)) as store:
        trial = store.trials(1)[0]
    assert trial.eval_loss is None
    assert trial.measured == {"a": 1}
    assert set(trial.damaged) == {"eval_loss", "measured.required_bytes"}
