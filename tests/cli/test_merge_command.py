"""`merge`: options, the comparison with the record, and its exit codes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils._validators import validate_repo_id

from vram_search.answers.adapter import KeptAdapter, find_adapter
from vram_search.answers.lookup import find_study, opened
from vram_search.answers.model_card import metadata, model_card, upload_line
from vram_search.protocol import Merged, MergeJob
from vram_search.resources import shell_word
from vram_search.worker import convert, talk

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(home_of_one_trial: Path) -> Path:
    """The best trial is recorded with a loss near 2."""
    return home_of_one_trial


@pytest.fixture
def merge(
    vram_search_without_training: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[subprocess.CompletedProcess[str], list[MergeJob]]]:
    """Calls `merge(loss, *arguments)`; the merged model has this loss."""
    plain = talk.load_job
    changed = {"random_weights": False}
    monkeypatch.setattr(talk, "load_job", lambda study: plain(study).model_copy(update=changed))

    def run(
        loss: float | None, *arguments: object
    ) -> tuple[subprocess.CompletedProcess[str], list[MergeJob]]:
        jobs: list[MergeJob] = []

        def pretend(job: MergeJob, log: Path, tell: Callable[[str], None]) -> Merged:
            jobs.append(job)
            Path(job.target).mkdir(exist_ok=True)
            return Merged(
                size_bytes=2**20,
                eval_loss=loss,
                example_loss_sums=(),
                dtype="float32",
                versions={},
            )

        monkeypatch.setattr(convert, "convert", pretend)
        return vram_search_without_training("merge", *arguments), jobs

    return run


def test_merged_model_that_is_worse_fails(merge: Any, tmp_path: Path) -> None:
    done, jobs = merge(9.0, "best", "-o", tmp_path / "model")
    assert done.returncode == 1
    assert "WORSE, more than 0.02" in done.stdout
    assert (tmp_path / "model").is_dir() and jobs[0].measure
    assert "adapters/trial-0000" in Path(jobs[0].adapter_folder).as_posix()


def test_merged_model_that_is_better_is_no_failure(merge: Any, tmp_path: Path) -> None:
    done, _ = merge(1.0, "best", "-o", tmp_path / "model")
    assert done.returncode == 0 and "better, since the base is not" in done.stdout


def test_merged_folder_has_a_card_that_the_hub_reads(
    merge: Any, home: Path, tmp_path: Path
) -> None:
    done, _ = merge(2.0, "best", "-o", tmp_path / "model")
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.library_name == "transformers" and "vram-search" in card.data.tags
    assert "license" not in card.data.to_dict() and "base_model" not in card.data.to_dict()
    assert "| base model, untuned (NF4) | 4.0000 |" in card.text
    assert "| merged model (bf16) | 2.0000 |" in card.text
    assert "| learning_rate |" in card.text and "| data | rows.jsonl; hash " in card.text
    assert str(tmp_path) not in card.text and str(home) not in card.text
    assert "next: hf upload YOUR-NAME/tiny-trial-0" in done.stdout


def test_path_with_spaces_is_quoted_in_the_next_command(
    merge: Any, vram_search_without_training: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "my adapter"
    done = vram_search_without_training("card", "best", "-o", folder)
    assert done.stdout.rstrip().endswith(f" {shell_word(folder)}")
    assert shlex.split(shell_word(folder), posix=os.name != "nt")[0].strip('"') == str(folder)


def test_adapter_is_copied_with_a_card(
    merge: Any, vram_search_without_training: Cli, tmp_path: Path
) -> None:
    done = vram_search_without_training("card", "best", "-o", tmp_path / "adapter")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    card = ModelCard.load(tmp_path / "adapter" / "README.md")
    assert card.data.library_name == "peft" and "BitsAndBytesConfig" in card.text
    again = vram_search_without_training("card", "best", "-o", tmp_path / "adapter")
    assert again.returncode == 2 and "exists" in again.stdout


def test_card_names_base_and_data_that_are_on_the_hub(merge: Any, home: Path) -> None:
    with opened(str(home / "vram-search.db")) as store:
        study = find_study(store, None)
        kept = find_adapter(store, study, "best")
    spec = {
        **study.spec,
        "model": {"model_name_or_path": "Qwen/Qwen2.5-3B-Instruct"},
        "dataset": {"train": ["tatsu-lab/alpaca", "/home/me/private rows.jsonl"]},
    }
    elsewhere = replace(kept, study=replace(study, spec=spec))
    found = ModelCard(model_card(elsewhere, "adapter", None))
    head = metadata(elsewhere, "adapter")
    assert head["base_model"] == "Qwen/Qwen2.5-3B-Instruct"
    assert head["datasets"] == ["tatsu-lab/alpaca"]
    assert "/home/me" not in found.text


def kept_adapter(home: Path, spec: dict[str, Any], hp: dict[str, Any]) -> KeptAdapter:
    """The best trial's adapter, with these keys of its study and these hyperparameters."""
    with opened(str(home / "vram-search.db")) as store:
        kept = find_adapter(store, find_study(store, None), "best")
    study = replace(kept.study, spec={**kept.study.spec, **spec})
    trial = replace(kept.trial, hyperparameters={**kept.trial.hyperparameters, **hp})
    return replace(kept, study=study, trial=trial)


def test_card_tells_the_trials_own_schedule(merge: Any, home: Path) -> None:
    searched = {"lr_scheduler_type": "linear", "warmup_ratio": 0.3}
    text = model_card(kept_adapter(home, {}, searched), "adapter", None)
    assert "| schedule | linear, warm-up 0.3 |" in text
    assert "| schedule | cosine, warm-up 0.1 |" in model_card(
        kept_adapter(home, {}, {"warmup_ratio": None}), "adapter", None
    )


@pytest.mark.parametrize(
    ("train", "shown", "named"),
    [
        (r"C:\Users\alice\My data\rows 1.jsonl", "rows 1.jsonl", []),
        ([r"\\server\share\a.json", "/home/alice/données/b.json"], "a.json, b.json", []),
        ([{"path": "org/set", "data_files": "x.json"}], "org/set", ["org/set"]),
        ("org/a_set-2.0", "org/a_set-2.0", ["org/a_set-2.0"]),
        (
            "d/my_rows *new* <b> `x`: #1 | é.jsonl",
            "my_rows \\*new\\* \\<b> \\`x\\`: #1 \\| é.jsonl",
            [],
        ),
    ],
)
def test_card_shows_files_without_their_folders(
    merge: Any, home: Path, train: Any, shown: str, named: list[str]
) -> None:
    kept = kept_adapter(home, {"dataset": {"train": train}}, {"use_dora": True, "packing": True})
    card = ModelCard(model_card(kept, "adapter", None))
    assert f"| data | {shown}; hash " in card.text
    assert metadata(kept, "adapter").get("datasets", []) == named
    assert "alice" not in card.content and "server" not in card.content
    assert "| use_dora | True |" in card.text and "| packing | True |" in card.text


@pytest.mark.parametrize("name", ["a--b-trial-0", "v1..2-trial-0", "x~5680b0fa-trial-0"])
def test_upload_line_has_a_name_that_the_hub_takes(name: str, tmp_path: Path) -> None:
    validate_repo_id(upload_line(tmp_path, name).split()[2])


def test_card_takes_the_base_models_name_on_the_hub(
    merge: Any, vram_search_without_training: Cli, tmp_path: Path
) -> None:
    done = vram_search_without_training("card", "best", "-o", tmp_path / "a")
    assert "write the card again with --base OWNER/NAME" in done.stdout
    done = vram_search_without_training("card", "best", "-o", tmp_path / "b", "--base", "me/tiny")
    assert done.returncode == 0 and "--base" not in done.stdout
    assert ModelCard.load(tmp_path / "b" / "README.md").data.base_model == "me/tiny"
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/tiny"
    done = vram_search_without_training("card", "best", "-o", tmp_path / "c", "--base", "./tiny")
    assert done.returncode == 2 and "OWNER/NAME" in done.stdout
    assert not (tmp_path / "c").exists()


def test_unmeasured_model_is_said_to_be_unmeasured(merge: Any, tmp_path: Path) -> None:
    done, jobs = merge(None, "0", "-o", tmp_path / "m", "--no-check")
    assert done.returncode == 0 and "was not measured" in done.stdout
    assert not jobs[0].measure


def test_folder_that_is_there_is_not_replaced(merge: Any, tmp_path: Path) -> None:
    done, jobs = merge(1.0, "best", "-o", tmp_path)
    assert done.returncode == 2 and "exists" in done.stdout and not jobs


def test_unknown_product_run_is_named(merge: Any, tmp_path: Path) -> None:
    done, _ = merge(1.0, "p7", "-o", tmp_path / "m")
    assert done.returncode == 2 and "has no product run p7" in done.stdout
    assert "remedy: `vram-search train best` makes the first one" in done.stdout


def test_random_weights_are_refused(vram_search_without_training: Cli, tmp_path: Path) -> None:
    done = vram_search_without_training("merge", "best", "-o", tmp_path / "m")
    assert done.returncode == 2 and "trains random weights" in done.stdout
