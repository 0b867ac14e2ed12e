"""`train`: a trial trained again with other seeds, more epochs or all rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fake_trainer
from tests.conftest import FinishedSearch
from vram_search.store import Store, open_store, sqlite_url
from vram_search.store.product_runs import ProductRun, product_runs_of
from vram_search.train.channel import Channel

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def two_trials(tmp_path_factory: pytest.TempPathFactory) -> FinishedSearch:
    """A search of two trials over 12 of 24 rows."""
    return FinishedSearch(
        tmp_path_factory.mktemp("two-trials"),
        2,
        dataset={"train": "rows.jsonl", "val_size": 4, "max_samples": 12},
        training={"num_train_epochs": 2, "rungs": [0.5]},
    )


@pytest.fixture
def home(two_trials: FinishedSearch, monkeypatch: pytest.MonkeyPatch) -> Path:
    return two_trials.use(monkeypatch)


@pytest.fixture
def searched(vram_search_without_training: Cli) -> Cli:
    """The command line after that search."""
    return vram_search_without_training


@pytest.fixture
def store(home: Path, searched: Cli) -> Iterator[Store]:
    opened = open_store(sqlite_url(home / "vram-search.db"), create=False)
    yield opened
    opened.close()


def answer_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    text = done.stdout
    found: dict[str, Any] = json.loads(
        text[text.index("\n{") if text[0] != "{" else 0 :].split("\n}\n")[0] + "\n}"
    )
    return found


def runs_of(store: Store) -> list[ProductRun]:
    study = store.latest_study()
    assert study is not None
    return product_runs_of(store, study.id)


def test_winner_is_trained_with_fresh_seeds_and_its_spread_and_rank_are_reported(
    searched: Cli, store: Store
) -> None:
    done = searched("train", "best", "--seeds", 2)
    assert done.returncode == 0, done.stdout
    runs = runs_of(store)
    assert [run.seed for run in runs] == [43, 44], "the search had seed 42"
    assert all(run.outcome == "complete" and run.steps_total == 4 for run in runs)
    assert all(Path(run.adapter_path or "").is_dir() for run in runs)
    mean = sum(run.eval_loss or 0 for run in runs) / 2
    assert (
        f"eval_loss is {mean:.4f} in the mean of 2 seeds, standard deviation 0.0007" in done.stdout
    )
    assert "the second, has" in done.stdout and "for the winner)" in done.stdout.replace(
        "\n  ", " "
    )
    assert f"adapter of {runs[0].name}: {runs[0].adapter_path}" in done.stdout
    study = store.latest_study()
    assert study is not None
    assert len(store.trials(study.id)) == 2, "product runs are no trials"


def test_finished_seeds_are_not_trained_again(searched: Cli, store: Store) -> None:
    searched("train", "best", "--seeds", 1)
    done = searched("train", "best", "--seeds", 2, "--json")
    assert [run.seed for run in runs_of(store)] == [43, 44]
    assert [run["seed"] for run in answer_of(done)["runs"]] == [43, 44]
    again = searched("train", "best", "--seeds", 2)
    assert again.returncode == 0 and "loading the base model" not in again.stdout


def test_more_epochs_and_all_rows_are_longer_runs_without_a_rank(
    searched: Cli, store: Store
) -> None:
    done = searched("train", "best", "--epochs", 3, "--all-rows")
    assert done.returncode == 0, done.stdout
    (run,) = runs_of(store)
    assert run.steps_total == 15, "3 epochs of 24 - 4 rows, 4 at a time"
    assert run.epochs == 3 and run.all_rows
    assert "The rank is not known" in done.stdout
    beside = answer_of(
        searched("train", "best", "--epochs", 3, "--all-rows", "--runner-up", "--json")
    )
    assert len(beside["runs"]) == 2
    assert beside["rank"]["rival_seeds"] == 1 and beside["rank"]["probability"] > 0.5


def test_interrupted_training_is_recorded_as_lost_and_repeated(
    searched: Cli, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = store.latest_study()
    assert study is not None
    best = store.top_trials(study.id)[0].number
    products = store.files / study.name / "products"
    checkpoint = products / f"checkpoint-trial-{best:04d}-seed-43"

    def press_ctrl_c(channel: Channel, stage: str, steps_total: int) -> None:
        if stage == "train":
            checkpoint.mkdir(parents=True)
            os.kill(os.getpid(), signal.SIGINT)
            channel.receive()  # waits until the training is stopped

    with monkeypatch.context() as patched:
        patched.setattr(fake_trainer, "enter", press_ctrl_c)
        done = searched("train", "best")
    assert done.returncode == 130, done.stdout
    assert "finished trainings are kept" in done.stdout
    assert checkpoint.is_dir(), "the next training goes on with it"
    assert searched("train", "best").returncode == 0
    assert [run.outcome for run in runs_of(store)] == ["lost", "complete"]
    assert not checkpoint.is_dir()


def test_changed_rows_are_refused(searched: Cli, two_trials: FinishedSearch) -> None:
    file = two_trials.folder / "rows.jsonl"
    file.write_text(file.read_text().replace("What is 3", "What was 3"))
    done = searched("train", "best")
    assert done.returncode == 2
    assert "rows.jsonl has changed since the search" in done.stdout
