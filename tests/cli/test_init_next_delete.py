"""The way in (`init`), the next night (`next`), and tidying up (`delete`, `studies`)."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cli.questions.conftest import Ask, Search, ask, search
from vram_search.resources import shipped
from vram_search.spec import load_study

__all__ = ["ask", "search"]
Cli = Callable[..., subprocess.CompletedProcess[str]]
SPACE = {
    "optim": ["adamw_8bit", "adamw_torch_fused"],
    "lora_target": ["qv", "all"],
    "lora_rank": [8, 16],
    "cutoff_len": [512],
    "batch_size": [8],
    "learning_rate": {"min": 1e-5, "max": 1e-3},
}


def rows_file(folder: Path) -> Path:
    file = folder / "rows.jsonl"
    file.write_text(
        "\n".join(json.dumps({"instruction": "a " * 300, "output": "b"}) for _ in range(40))
    )
    return file


def test_init_without_questions_writes_a_study_and_says_whether_it_fits(
    vram_search_without_training: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    arguments = (
        "--model",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "--data",
        rows_file(tmp_path),
        "--card",
        "rtx-4060-8gb",
    )
    done = vram_search_without_training("init", *arguments, "--hours", 3, "-o", file)
    assert done.returncode == 0, done.stdout
    assert "fits NVIDIA GeForce RTX 4060 8 GB" in done.stdout
    study = load_study(file)
    assert study.study == "mine" and study.budget.hours == 3
    assert study.search_space.cutoff_len == (256,)
    again = vram_search_without_training("init", *arguments, "--hours", 3, "-o", file)
    assert again.returncode == 2 and "exists" in again.stdout


def test_names_with_signs_of_yaml_are_written_in_quotes(ask: Ask, tmp_path: Path) -> None:
    rows = rows_file(tmp_path).rename(tmp_path / "rows #2.jsonl")
    file = tmp_path / "2026.yaml"
    card = "GPU 0: NVIDIA GeForce RTX 3090 (UUID: GPU-0a)"
    arguments = ("--model", "qwen2.5-3b", "--data", rows, "--hours", 3, "--card", card, "-o", file)
    assert "fits NVIDIA GeForce RTX 3090" in ask("init", *arguments).out
    study = load_study(file)
    assert (study.study, study.dataset.train) == ("2026", str(rows))


def test_init_takes_further_keys_and_keeps_its_comments(ask: Ask, tmp_path: Path) -> None:
    rows, file = tmp_path / "rows.jsonl", tmp_path / "mine.yaml"
    rows.write_text("\n".join('{"essay": "a b c"}' for _ in range(20)), encoding="utf-8")
    asked = ("init", "--model", "qwen2.5-0.5b", "--data", rows, "--card", "24GB", "--hours", 1)
    refused = ask(*asked, "-o", file)
    assert refused.code == 2 and "--set 'dataset.columns={text: essay}'" in refused.err
    wrong = ask(*asked, "--set", "dataset.colums={text: essay}", "-o", file)
    assert wrong.code == 2 and "dataset.colums" in wrong.err and not file.exists()
    keys = (
        *("--set", "dataset.columns={text: essay}"),
        *("--set", "budget.hours=2"),
        *("--set", "search_space.lora_rank=[64]"),
        *("--set", "seed=7"),
    )
    done = ask(*asked, *keys, "-o", file)
    assert done.code == 0, done.err
    study = load_study(file)
    assert study.dataset.columns.text == "essay"
    assert (study.budget.hours, study.seed) == (2, 7)
    assert study.search_space.lora_rank == (64,)
    assert "# effective; micro-batches are chosen for you" in file.read_text(encoding="utf-8")


def test_init_names_the_published_model_that_it_takes(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    asked = ("--data", rows_file(tmp_path), "--card", "24GB", "--hours", 1, "-o", file)
    done = ask("init", "--model", "qwen2.5:0.5b", *asked)
    assert "qwen2.5:0.5b is taken for Qwen/Qwen2.5-0.5B-Instruct" in done.out, done.err
    assert load_study(file).base.model_name_or_path == "Qwen/Qwen2.5-0.5B-Instruct"


def test_init_that_can_ask_nobody_names_the_missing_option(
    vram_search_without_training: Cli, tmp_path: Path
) -> None:
    done = vram_search_without_training("init", "-o", tmp_path / "x.yaml")
    assert done.returncode == 2 and "--model is missing" in done.stdout


class Terminal(io.StringIO):
    """A terminal in which a person has typed these lines."""

    def isatty(self) -> bool:
        return True


def test_init_asks_again_for_an_answer_that_it_cannot_use(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = shipped("studies", "data", "triz_en.jsonl")
    lines = ("nosuch", "qwen2.5-3b", "nosuch.jsonl", str(rows), "16XB", "16GB", "eight", "nan", "2")
    monkeypatch.setattr(sys, "stdin", Terminal("\n".join((*lines, ""))))
    done = ask("init", "-o", tmp_path / "night.yaml")
    assert done.code == 0, done.err
    assert [done.out.count(f"Error: {what}") for what in ("no file", "--data", "--card")] == [1] * 3
    assert done.out.count("is not a number of hours") == 2
    assert load_study(tmp_path / "night.yaml").budget.hours == 2


@pytest.mark.parametrize("size", [8, 12, 16, 24])
def test_starting_study_fits_its_card(vram_search_without_training: Cli, size: int) -> None:
    file = shipped("studies", f"start-{size}gb.yaml")
    done = vram_search_without_training("estimate", file, "--json")
    assert json.loads(done.stdout)["plans"][0]["fits"] is True


def describe(search: Search) -> None:
    spec = {**search.study.spec, "search_space": SPACE, "seed": 42}
    search.study = search.store.refresh_study(search.study.id, spec)


def test_next_night_narrows_to_what_the_best_third_has_in_common(
    ask: Ask, search: Search, tmp_path: Path
) -> None:
    describe(search)
    for number in range(12):
        good = number < 4
        search.add(
            loss=1.0 + 0.02 * number,
            hyperparameters={
                "learning_rate": 2e-4 if good else 3e-5,
                "lora_target": "all" if good else "qv",
            },
        )
    file = tmp_path / "second.yaml"
    words = " ".join(ask("next", "-o", file).out.split())
    assert "lora_target: only all, as in the 4 best." in words
    proposal = yaml.safe_load(file.read_text())
    assert proposal["study"] == "night-2"
    assert proposal["search_space"]["lora_target"] == ["all"]
    low, high = (proposal["search_space"]["learning_rate"][end] for end in ("min", "max"))
    assert 1e-5 < low < 2e-4 < high < 1e-3
    assert ask("next", "-o", file).code == 2


def test_two_trials_are_too_few_to_narrow_a_search(ask: Ask, search: Search) -> None:
    describe(search)
    for loss in (1.0, 1.1):
        search.add(loss=loss)
    answer = ask("next", "--json").json
    assert answer["proposal"] is None and answer["stop"] is False
    assert answer["reasons"] == ["2 complete trials are too few to narrow the search: continue it."]


def test_best_trials_are_run_again_with_other_seeds(
    ask: Ask, search: Search, tmp_path: Path
) -> None:
    describe(search)
    for number, rate in enumerate((1e-4, 2e-4, 3e-4, 4e-4)):
        search.add(
            loss=1.0 + 0.02 * number,
            hyperparameters={"learning_rate": rate, "lora_target": "all"},
        )
    file = tmp_path / "again.yaml"
    words = " ".join(ask("next", "--seeds", "-o", file).out.split())
    assert "Trials 0, 1, 2 are run again to the end with seeds 1 and 2" in words
    proposal = yaml.safe_load(file.read_text())
    assert proposal["study"] == "night-seeds" and proposal["budget"]["trials"] == 6
    assert [(p["learning_rate"], p["seed"]) for p in proposal["points"]] == [
        (rate, seed) for seed in (1, 2) for rate in (1e-4, 2e-4, 3e-4)
    ]
    spec = {key: proposal[key] for key in ("search_space", "points", "training", "budget")}
    data = {"train": str(rows_file(tmp_path))}
    written = {"study": "again", "model": {"model_name_or_path": "a/m"}, "dataset": data}
    (tmp_path / "valid.yaml").write_text(yaml.safe_dump({**written, "card": "16GB", **spec}))
    points = load_study(tmp_path / "valid.yaml").first_points
    assert [(point.learning_rate, point.seed) for point in points][3] == (1e-4, 2)


def test_search_without_a_difference_left_is_advised_to_stop(ask: Ask, search: Search) -> None:
    describe(search)
    space = {
        **SPACE,
        "optim": ["adamw_8bit"],
        "lora_target": ["all"],
        "lora_rank": [16],
        "learning_rate": {"min": 2e-4, "max": 2.0001e-4},
    }
    spec = {**search.study.spec, "search_space": {**space, "learning_rate": [2e-4]}}
    search.study = search.store.refresh_study(search.study.id, spec)
    for number in range(12):
        search.add(loss=1.0 + 0.0001 * number)
    answer = ask("next", "--json").json
    assert answer["stop"] is True and answer["proposal"] is None


def test_deleted_study_is_gone_with_its_adapters_and_its_disk_use_was_shown(
    vram_search_without_training: Cli, write_study: Callable[..., Path], home: Path
) -> None:
    cli = vram_search_without_training
    assert cli("run", write_study(), "--trials", 1).returncode == 0
    (summary,) = json.loads(cli("studies", "--json").stdout)
    assert summary["disk_bytes"] > 0
    assert list(home.rglob("adapter_config.json"))
    done = cli("delete", "tiny", "--yes")
    assert done.returncode == 0, done.stdout
    assert json.loads(cli("studies", "--json").stdout) == []
    assert not list(home.rglob("adapter_config.json"))
