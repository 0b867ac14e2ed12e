"""A study's constraints: refused if no point keeps them, and reported to Optuna for each trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from vram_search.search.memory_constraint import MEMORY_CONSTRAINT
from vram_search.store import open_store
from vram_search.store.location import database_url

SPACE = {
    "lora_target": "all",
    "lora_rank": [4, 8],
    "cutoff_len": 96,
    "batch_size": 4,
    "learning_rate": {"min": 1e-4, "max": 1e-2},
}
BETWEEN_THE_RANKS = 0.05
"""MiB: the adapter of the tiny model takes 0.031 at rank 4 and 0.0625 at rank 8."""

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    "constraints",
    [{"max_adapter_mib": 0.01}, {"max_required_gib": 1e-4}, {"max_train_seconds": 1e-6}],
)
@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_constraint_that_no_point_keeps_is_refused_before_anything_runs(
    vram_search_without_training: Cli,
    write_study: Callable[..., Path],
    home: Path,
    constraints: dict[str, float],
    dry_run: list[str],
) -> None:
    study = write_study(search_space=SPACE, constraints=constraints)
    done = vram_search_without_training("run", study, *dry_run)
    assert done.returncode == 2
    (name,) = constraints
    assert f"constraints.{name}" in done.stdout
    assert "no point of the search space keeps it" in done.stdout


def test_constraint_out_of_range_is_named_with_its_place(
    vram_search_without_training: Cli, write_study: Callable[..., Path], home: Path
) -> None:
    done = vram_search_without_training("run", write_study(constraints={"max_adapter_mib": 0}))
    assert done.returncode == 2 and "constraints.max_adapter_mib" in done.stdout


def test_trials_that_would_break_a_constraint_are_not_trained_and_optuna_learns_of_it(
    vram_search_without_training: Cli, write_study: Callable[..., Path], home: Path
) -> None:
    study = write_study(
        search_space=SPACE,
        strategy="tpe",  # it tries the published points, of which some have rank 8
        constraints={"max_adapter_mib": BETWEEN_THE_RANKS},
        budget={"trials": 2},
    )
    done = vram_search_without_training("run", study)
    assert done.returncode == 0, done.stdout

    store = open_store(database_url(None), create=False)
    record = store.study("tiny")
    assert record is not None
    by_number = {trial.number: trial for trial in store.trials(record.id)}
    store.close()
    broken = [t for t in by_number.values() if t.hyperparameters["lora_rank"] == 8]
    assert broken and {trial.outcome for trial in broken} == {"infeasible"}
    assert "constraints.max_adapter_mib 0.05 is missed by 25 %" in str(broken[0].error)
    trained = [t for t in by_number.values() if t.outcome not in ("infeasible", "lost")]
    assert {trial.hyperparameters["lora_rank"] for trial in trained} == {4}

    for trial in optuna.load_study(storage=database_url(None), study_name="tiny").trials:
        if trial.state.is_finished() and trial.number in by_number:
            is_broken = by_number[trial.number] in broken
            assert (trial.constraints["max_adapter_mib"] > 0) == is_broken
            assert trial.constraints[MEMORY_CONSTRAINT] <= 0


def test_gp_proposes_points_that_keep_the_constraints_alone(
    vram_search_without_training: Cli, write_study: Callable[..., Path], home: Path
) -> None:
    study = write_study(
        search_space=SPACE,
        constraints={"max_adapter_mib": BETWEEN_THE_RANKS},
        budget={"trials": 3},
    )
    done = vram_search_without_training("run", study)
    assert done.returncode == 0, done.stdout
    store = open_store(database_url(None), create=False)
    record = store.study("tiny")
    assert record is not None
    ranks = {trial.hyperparameters["lora_rank"] for trial in store.trials(record.id)}
    store.close()
    assert ranks == {4}
