"""Small tables with known losses, seconds and bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.search.replay import Replay, Rules
from bench.search.table import Config, Row, Table

MakeRow = Callable[..., dict[str, Any]]
MakeReplay = Callable[..., Replay]


def row_of(**changes: Any) -> dict[str, Any]:
    """A run of 90 steps in 90 s, evaluated at each third in 1 s, set up in 2 s."""
    return {
        "task": "made up",
        "config": "c0",
        "seed": 0,
        "learning_rate": 1e-4,
        "lora_rank": 8,
        "lora_target": "all",
        "cutoff_len": 256,
        "batch_size": 8,
        "optim": "adamw_8bit",
        "steps": 90,
        "eval_steps": [0, 30, 60, 90],
        "eval_loss": [3.0, 2.0, 1.5, 1.6],
        "train_seconds": 90.0,
        "eval_seconds": 4.0,
        "setup_seconds": 2.0,
        "max_allocated_bytes": 1000,
        **changes,
    }


def config_of(*changes: dict[str, Any]) -> Config:
    rows = tuple(Row.model_validate(row_of(**change)) for change in changes or ({},))
    return Config(rows[0].hyperparameters, rows)


def table_of(*rows: dict[str, Any]) -> Table:
    """A configuration for each set of changes."""
    return Table("made up", tuple(config_of(row) for row in rows))


@pytest.fixture
def replay_of() -> MakeReplay:
    """A replay of one night; the limit is 2000 bytes."""

    def make(table: Table, rules: Rules | None = None, **changes: Any) -> Replay:
        settings = {"limit_bytes": 2000, "night": 1e4, "seed": 0, **changes}
        return Replay(table, rules=rules or Rules(), **settings)

    return make
