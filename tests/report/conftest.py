"""Believable studies of any size in a real database."""

from __future__ import annotations

import json
import math
import random
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, event, update

from vram_search.report.page.report_data import ReportData, load_report_data
from vram_search.store import (
    Evaluation,
    Outcome,
    StepLoss,
    Store,
    StudyRecord,
    TrialResult,
    open_store,
    sqlite_url,
)
from vram_search.store.tables import metadata
from vram_search.store.tables import trials as trials_table
from vram_search.units import GIB, MIB

CARD: dict[str, Any] = {
    "name": "rtx-5060-ti-16gb",
    "title": "NVIDIA GeForce RTX 5060 Ti 16 GB",
    "total_bytes": 16311 * MIB,
    "reserve_bytes": 922 * MIB,
    "context_bytes": 500 * MIB,
}
MODEL = {"name": "Qwen/Qwen2.5-3B-Instruct", "model_type": "qwen2", "parameters": 3_085_938_688}
BUDGET_BYTES: int = CARD["total_bytes"] - CARD["reserve_bytes"] - CARD["context_bytes"]
TARGET_SHARE = {"qv": 0.12, "qkvo": 0.3, "qkvo_gu": 0.75, "all": 1.0}
EXAMPLES, ANSWER_TOKENS = 40, 3200
STEPS = 54
VERSIONS = {"torch": "2.11.0", "transformers": "5.17.0", "peft": "0.21.2"}


@pytest.fixture
def database(home: Path) -> Iterator[Store]:
    """The database that the command line of this test reads."""
    home.mkdir()
    store = open_store(sqlite_url(home / "vram-search.db"), create=True)
    _do_not_wait_for_the_disk(store)
    yield store
    store.close()


def _do_not_wait_for_the_disk(store: Store) -> None:
    """A thousand trials are four thousand transactions: no test here is about a power cut."""
    event.listen(store.engine, "connect", _without_waiting_for_the_disk)
    store.engine.dispose()


def _without_waiting_for_the_disk(connection: Any, _: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


def make_study(
    store: Store,
    name: str = "td-010",
    *,
    trials: int = 12,
    model: dict[str, Any] = MODEL,
    with_gpu: bool = True,
    data_hash: str = "9f2c6a41d0",
) -> StudyRecord:
    """A finished study; losses, bytes and outcomes hang on the hyperparameters as real ones do.

    The first one of its kind is recorded trial by trial; each further one is a copy of its rows.
    """
    address, _ = _recorded(name, trials, json.dumps(model), with_gpu, data_hash)
    file = str(store.engine.url.database)
    with closing(sqlite3.connect(file, isolation_level=None, uri=True)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("ATTACH ? AS recorded", (address,))
        connection.execute("BEGIN IMMEDIATE")
        used = {table.name: _largest_id(connection, table) for table in metadata.sorted_tables}
        for table in metadata.sorted_tables:
            _copy_rows(connection, table, used)
        connection.execute("COMMIT")
    study = store.study(name)
    assert study is not None
    return study


@cache
def _recorded(
    name: str, trials: int, model: str, with_gpu: bool, data_hash: str
) -> tuple[str, sqlite3.Connection]:
    """The address of a database in memory that holds this study alone, as the store itself writes
    it; and the connection that keeps it there."""
    address = f"file:recorded-{_recorded.cache_info().currsize}?mode=memory&cache=shared"
    memory = sqlite3.connect(address, uri=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "study.db")
        with closing(open_store(sqlite_url(file), create=True)) as store:
            _do_not_wait_for_the_disk(store)
            study = store.create_study(name, {"study": name}, data_hash, CARD, json.loads(model))
            dice = random.Random(name)
            for number in range(trials):
                _make_trial(store, study, number, dice, with_gpu)
        with closing(sqlite3.connect(file)) as written:
            written.backup(memory)
    return address, memory


def _largest_id(connection: sqlite3.Connection, table: Table) -> int:
    if "id" not in table.c:
        return 0
    (largest,) = connection.execute(f"SELECT max(id) FROM main.{table.name}").fetchone()
    return largest or 0


def _copy_rows(connection: sqlite3.Connection, table: Table, used: dict[str, int]) -> None:
    """Copies a table's rows with identifiers that follow those in use."""
    counted = {"id": table.name, "study_id": "vs_studies", "trial_id": "vs_trials"}
    columns = [column.name for column in table.c]
    names = ", ".join(f'"{name}"' for name in columns)
    values = ", ".join(
        f'"{name}" + {used[counted[name]]}' if name in counted else f'"{name}"' for name in columns
    )
    connection.execute(
        f"INSERT INTO main.{table.name} ({names}) SELECT {values} FROM recorded.{table.name}"
    )


def draw(dice: random.Random) -> dict[str, Any]:
    rank = dice.choice([4, 8, 16, 32])
    return {
        "optim": dice.choice(["adamw_torch_fused", "adamw_8bit", "lion_8bit"]),
        "lora_target": dice.choice(list(TARGET_SHARE)),
        "lora_rank": rank,
        "lora_alpha": 2 * rank,
        "cutoff_len": dice.choice([384, 512, 1024]),
        "batch_size": dice.choice([2, 4, 8, 16]),
        "learning_rate": 2e-5 * 50 ** dice.random(),
    }


def _make_trial(
    store: Store, study: StudyRecord, number: int, dice: random.Random, with_gpu: bool
) -> None:
    hp = draw(dice)
    trial_id = store.start_trial(study.id, number, hp, seed=42, data_hash=study.data_hash)
    parts = parts_of(hp)
    allocated = sum(parts.values()) - parts["allocator_slack"] - parts["context"]
    required = round(allocated * 1.02)
    outcome = _outcome(required, dice)
    plan = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": max(1, hp["batch_size"] // 2),
        "gradient_checkpointing": True,
        "enable_liger_kernel": False,
        "per_device_eval_batch_size": 2,
        "expandable_segments": True,
    }
    predicted = {
        "allocated_bytes": allocated,
        "reserved_bytes": allocated + parts["allocator_slack"],
        "required_bytes": required,
        "process_bytes": sum(parts.values()),
        "parts": parts,
        "budget_bytes": BUDGET_BYTES,
        "margin": 0.007,
        "excess": required / BUDGET_BYTES - 1,
    }
    store.record_plan(trial_id, plan, predicted)
    store.finish_trial(trial_id, _result(outcome, hp, predicted, dice, with_gpu))
    _lay_in_the_night(store, trial_id, number, outcome)


def parts_of(hp: dict[str, Any]) -> dict[str, int]:
    """Predicted bytes of a 3B model at micro-batch 2."""
    tokens, share = 2 * hp["cutoff_len"], TARGET_SHARE[hp["lora_target"]]
    adapter = round(share * hp["lora_rank"] * 7.5 * MIB)
    per_parameter = {"adamw_torch_fused": 2.0, "adamw_8bit": 0.51, "lion_8bit": 0.26}
    return {
        "base_weights": round(1.91 * GIB),
        "adapter": adapter,
        "optimizer": round(adapter * per_parameter[hp["optim"]]),
        "saved_activations": tokens * 160 * 1024,
        "logits": tokens * 12 * 152_000 * 4,
        "workspaces": 18 * MIB,
        "allocator_slack": 120 * MIB,
        "context": 500 * MIB,
    }


def _outcome(required: int, dice: random.Random) -> Outcome:
    if required > BUDGET_BYTES * 0.995:
        return "infeasible"
    chance = dice.random()
    if required > BUDGET_BYTES * 0.9 and chance < 0.3:
        return "oom"
    shares: tuple[tuple[float, Outcome], ...]
    shares = ((0.55, "pruned"), (0.57, "diverged"), (0.58, "lost"))
    for share, outcome in shares:
        if chance < share:
            return outcome
    return "complete"


def loss_of(hp: dict[str, Any], dice: random.Random) -> float:
    """The learning rate decides about half of it, as in measured searches."""
    away = math.log10(hp["learning_rate"] / 3e-4)
    loss: float = (
        1.10
        + 0.14 * away**2
        + 0.03 * (hp["optim"] == "lion_8bit")
        + 0.04 * (1 - TARGET_SHARE[hp["lora_target"]])
        + 0.012 * abs(math.log2(hp["batch_size"] / 8))
        + 0.02 * (hp["cutoff_len"] == 384)
        + dice.gauss(0, 0.004)
    )
    return loss


def _result(
    outcome: Outcome,
    hp: dict[str, Any],
    predicted: dict[str, Any],
    dice: random.Random,
    with_gpu: bool,
) -> TrialResult:
    if outcome in ("infeasible", "oom", "lost", "diverged"):
        message = {
            "infeasible": "even the smallest plan (micro-batch 1 x 2, gradient checkpointing) does "
            "not fit: predicted 15.1 GiB",
            "oom": "out of memory at step 2: 594 MiB were asked for",
            "lost": "the run ended while this trial was in stage probe",
            "diverged": "loss is nan at step 9",
        }[outcome]
        seconds = {"plan": 0.4} if outcome == "infeasible" else {"load": 3.1, "probe": 12.0}
        measured = _measured(predicted, dice) if outcome == "oom" and with_gpu else None
        return TrialResult(
            outcome,
            measured=measured,
            seconds=seconds,
            error={"stage": "probe", "message": message},
        )
    final = loss_of(hp, dice)
    done = 1 / 9 if outcome == "pruned" else 1.0
    fractions = [f for f in (1 / 9, 1 / 3, 2 / 3, 1.0) if f <= done]
    curve = [final + 0.9 * math.exp(-3.2 * f) - 0.9 * math.exp(-3.2) for f in fractions]
    evaluations = [
        Evaluation(
            step=round(STEPS * fraction),
            fraction=fraction,
            eval_loss=loss,
            bits_per_byte=loss / 2.9,
            example_loss_sums=_loss_sums(loss, dice),
            seconds=4.0,
        )
        for fraction, loss in zip(fractions, curve, strict=True)
    ]
    steps = round(STEPS * done)
    return TrialResult(
        outcome,
        eval_loss=curve[-1],
        eval_loss_step=steps,
        last_eval_loss=curve[-1],
        bits_per_byte=curve[-1] / 2.9,
        measured=_measured(predicted, dice) if with_gpu else None,
        seconds={
            "plan": 0.3,
            "load": 0.2,
            "probe": 9.0,
            "train": 600 * done,
            "eval": 4.0 * len(fractions),
            "save": 0.8,
        },
        steps_done=steps,
        steps_total=STEPS,
        versions=VERSIONS,
        device="NVIDIA H200" if with_gpu else "cpu",
        step_losses=[
            StepLoss(s, final + 1.3 * math.exp(-6 * s / STEPS) + dice.gauss(0, 0.08), 2e-4, 1.0)
            for s in range(1, steps + 1)
        ],
        evaluations=evaluations,
    )


def _loss_sums(loss: float, dice: random.Random) -> list[float]:
    """Per-example sums around the mean that add up to it."""
    tokens = ANSWER_TOKENS / EXAMPLES
    noise = [dice.gauss(0, 0.02) for _ in range(EXAMPLES)]
    middle = sum(noise) / EXAMPLES
    easy = [0.5 + example / EXAMPLES for example in range(EXAMPLES)]
    scale = sum(easy) / EXAMPLES
    return [tokens * (loss * e / scale + n - middle) for e, n in zip(easy, noise, strict=True)]


def _measured(predicted: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    off = 1 + dice.gauss(0, 0.004)
    parts = {
        name: round(size * off)
        for name, size in predicted["parts"].items()
        if name not in ("allocator_slack", "context")
    }
    allocated = sum(parts.values())
    reserved = allocated + round(dice.uniform(60, 260) * MIB)
    return {
        "allocated_bytes": allocated,
        "reserved_bytes": reserved,
        "process_bytes": reserved + 500 * MIB,
        "parts": parts,
    }


def _lay_in_the_night(store: Store, trial_id: int, number: int, outcome: str) -> None:
    """The store stamps the present; a night's trials follow one another."""
    minutes = {"complete": 11, "pruned": 2}.get(outcome, 1)
    with store.engine.begin() as connection:
        row = connection.execute(trials_table.select().where(trials_table.c.id == trial_id)).one()
        began = row.started_at + timedelta(minutes=number * 5)
        connection.execute(
            update(trials_table)
            .where(trials_table.c.id == trial_id)
            .values(started_at=began, finished_at=began + timedelta(minutes=minutes))
        )


@pytest.fixture
def studies() -> Callable[..., StudyRecord]:
    """Makes a believable study: `studies(store, "name", trials=1000)`."""
    return make_study


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReportData]:
    """A study of 40 trials as its report reads it."""
    folder = tmp_path_factory.mktemp("night")
    with (
        pytest.MonkeyPatch.context() as patched,
        closing(open_store(sqlite_url(folder / "vram-search.db"), create=True)) as store,
    ):
        patched.setenv("VRAM_SEARCH_HOME", str(folder))
        yield load_report_data(store, make_study(store, trials=40))


@pytest.fixture
def vram_search(
    vram_search_without_training: Callable[..., subprocess.CompletedProcess[str]],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in this process: a report starts no other one."""
    return vram_search_without_training
