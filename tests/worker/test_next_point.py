"""A point that a person adds is the next that a search tries."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def vram_search(vram_search_without_training: Cli, write_study: Callable[..., Path]) -> Cli:
    """The command line, after one trial of a study."""
    done = vram_search_without_training("run", write_study(strategy="random"), "--trials", 1)
    assert done.returncode == 0, done.stdout
    return vram_search_without_training


def shown(vram_search: Cli, trial: object) -> dict[str, object]:
    done = vram_search("show", trial, "--json")
    found: dict[str, object] = json.loads(done.stdout)["trial"]["hyperparameters"]
    return found


def test_point_is_tried_next_with_the_other_values_of_its_trial(
    vram_search: Cli, tmp_path: Path
) -> None:
    before = shown(vram_search, 0)
    rank = 4 if before["lora_rank"] == 8 else 8
    done = vram_search("try", f"lora_rank={rank}", "learning_rate=2e-3", "--like", 0)
    assert done.returncode == 0, done.stdout
    assert vram_search("run", tmp_path / "study.yaml", "--trials", 2).returncode == 0
    alpha = {"lora_alpha": 2 * rank}
    assert shown(vram_search, 1) == {**before, "lora_rank": rank, "learning_rate": 2e-3, **alpha}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("lora_rank=5", "lora_rank 5 is not in the study's search space"),
        ("learning_rate=1.0", "learning_rate 1.0 is not in the study's search space"),
        ("rank=8", "'rank' is not a hyperparameter"),
        ("lora_rank", "is not of the form NAME=VALUE"),
    ],
)
def test_point_out_of_the_search_space_is_refused(
    vram_search: Cli, value: str, message: str
) -> None:
    done = vram_search("try", value)
    assert done.returncode == 2
    assert message in done.stdout


def test_point_that_was_tried_is_named(vram_search: Cli) -> None:
    optim = shown(vram_search, 0)["optim"]
    done = vram_search("try", f"optim={optim}", "--like", 0)
    assert done.returncode == 2
    assert "trial 0 has tried this already" in done.stdout
