"""`samples` and `chat`: answers of the untuned and the tuned model, from a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FinishedSearch
from vram_search.store import open_store, sqlite_url
from vram_search.store.untuned import recorded_samples

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(home_of_one_trial: Path) -> Path:
    return home_of_one_trial


@pytest.fixture
def searched(vram_search_without_training: Cli) -> Cli:
    """The command line after a search of one trial."""
    return vram_search_without_training


def test_search_compares_its_best_with_the_untuned_model(one_trial: FinishedSearch) -> None:
    assert "untuned model: eval_loss 4.0000 on the same rows" in one_trial.printed
    assert "untuned 4.0000 (-" in one_trial.printed.split("best of study")[0]


def test_samples_are_evaluation_rows_answered_before_and_after_and_kept(
    searched: Cli, home: Path
) -> None:
    done = searched("samples", "best", "--rows", 2, "--json")
    assert done.returncode == 0, done.stdout
    answer = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])
    assert len(answer["samples"]) == 2
    first = answer["samples"][0]
    assert first["tuned"] == f"tuned answer to {first['prompt']}"
    assert first["untuned"] == f"untuned answer to {first['prompt']}"
    assert first["expected"].startswith(first["prompt"].removeprefix("What is ").split("?")[0])
    store = open_store(sqlite_url(home / "vram-search.db"), create=False)
    study = store.latest_study()
    assert study is not None
    trial = store.top_trials(study.id)[0]
    assert [vars(sample) for sample in recorded_samples(store, trial.id)] == answer["samples"]
    store.close()


def test_prompts_of_a_file_are_asked_one_a_line(searched: Cli, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is love?\n\nAnd war?\n")
    done = searched("samples", "best", "--prompts", prompts)
    assert "tuned     tuned answer to And war?" in done.stdout
    assert "expected" not in done.stdout
    prompts.write_text("\n")
    done = searched("samples", "best", "--prompts", prompts)
    assert done.returncode == 2 and "holds no prompt" in done.stdout


def test_trial_without_a_kept_adapter_is_refused_with_what_to_do(searched: Cli, home: Path) -> None:
    for folder in list(home.rglob("trial-*")):
        folder.rename(folder.with_name("gone"))
    done = searched("samples", "best")
    assert done.returncode == 2
    assert "the adapter of trial 0 of study tiny is not kept" in done.stdout


def test_chat_answers_each_line_until_the_input_ends(
    searched: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n/new\nagain\n"))
    done = searched("chat", "best")
    assert done.returncode == 0, done.stdout
    assert "tuned answer to hello" in done.stdout and "tuned answer to again" in done.stdout
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert "untuned answer to hello" in searched("chat", "best", "--untuned").stdout
