"""`vram-search show`: what a trial's plan was judged by is told as it was then."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vram_search.store import Outcome, TrialResult, open_store, sqlite_url
from vram_search.units import GIB

Cli = Callable[..., subprocess.CompletedProcess[str]]

HYPERPARAMETERS = {
    "optim": "adamw_8bit",
    "lora_target": "all",
    "lora_rank": 8,
    "lora_alpha": 16,
    "cutoff_len": 512,
    "batch_size": 8,
    "learning_rate": 1e-4,
}
PLAN = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": True,
    "enable_liger_kernel": False,
    "per_device_eval_batch_size": 8,
    "expandable_segments": True,
}
BYTES = {"allocated_bytes": 9 * GIB, "required_bytes": 10 * GIB, "parts": {"base_weights": GIB}}


def show(cli: Cli, home: Path, outcome: Outcome, predicted: dict[str, Any]) -> str:
    """Of the one trial of a study."""
    store = open_store(sqlite_url(home / "vram-search.db"), create=True)
    study = store.create_study("one", {}, "d1", {"title": "a card"}, {"name": "a model"})
    trial = store.start_trial(study.id, 0, HYPERPARAMETERS, seed=1, data_hash="d1")
    store.record_plan(trial, PLAN, predicted)
    store.finish_trial(trial, TrialResult(outcome))
    store.close()
    done = cli("show", "0")
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("outcome", "excess", "place"), [("complete", -0.08, "within"), ("infeasible", 0.1, "above")]
)
def test_margin_and_budget_are_those_that_the_plan_was_judged_by(
    vram_search: Cli, home: Path, outcome: Outcome, excess: float, place: str
) -> None:
    judged = {"margin": 0.1, "budget_bytes": 12 * GIB, "excess": excess}
    text = show(vram_search, home, outcome, {**BYTES, **judged})
    line = f"required with a margin of 10.0%: 11.00 GiB, {place} the budget of 12.00 GiB"
    assert line in text


def test_trial_of_an_older_version_is_shown_without_its_margin(
    vram_search: Cli, home: Path
) -> None:
    text = show(vram_search, home, "complete", BYTES)
    assert "required_bytes" in text and "margin" not in text
