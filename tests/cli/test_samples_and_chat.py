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
from vram_search.store.adapter_files import CONFIG, WEIGHTS
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
    assert "the adapter of trial 0 of study tiny is gone: there is no folder" in done.stdout
    assert "`vram-search train 0`" in done.stdout


DAMAGES: dict[str, tuple[str, bytes | None, str]] = {
    "no settings": (CONFIG, None, "is missing"),
    "empty settings": (CONFIG, b"", "is no JSON"),
    "settings cut off": (CONFIG, b'{"peft_type": "LO', "is no JSON"),
    "settings of another encoding": (CONFIG, b"\xff\xfe{}", "is no JSON"),
    "a list": (CONFIG, b"[]", "is no JSON object"),
    "a number": (CONFIG, b"7", "is no JSON object"),
    "no kind": (CONFIG, b"{}", "peft_type is missing"),
    "another kind": (CONFIG, b'{"peft_type": "IA3"}', "peft_type is not a known value"),
    "a kind of another type": (CONFIG, b'{"peft_type": ["LORA"]}', "peft_type is not"),
    "a rank as text": (CONFIG, b'{"peft_type": "LORA", "r": "8"}', "r is not a whole number"),
    "a huge rank": (CONFIG, b'{"peft_type": "LORA", "r": 1e999}', "r is not a whole number"),
    "an alpha of NaN": (
        CONFIG,
        b'{"peft_type": "LORA", "r": 8, "lora_alpha": NaN}',
        "lora_alpha is out of range",
    ),
    "numbers as modules": (
        CONFIG,
        b'{"peft_type": "LORA", "r": 8, "target_modules": [1]}',
        "target_modules is not a list of texts",
    ),
    "no weights": (WEIGHTS, None, "is missing"),
    "empty weights": (WEIGHTS, b"", "is cut off at 0 bytes"),
    "a header alone": (WEIGHTS, b"\x07" + bytes(7), "is cut off at 8 bytes"),
    "a page of HTML": (WEIGHTS, b"<html>not found</html>", "is cut off"),
    "a header of a list": (WEIGHTS, b"\x02" + bytes(7) + b"[]", "no header of safetensors"),
    "no tensors": (WEIGHTS, b"\x02" + bytes(7) + b"{}", "holds no LoRA weights"),
    "no offsets": (
        WEIGHTS,
        b"\x0c" + bytes(7) + b'{"lora_A":7}',
        "no header of safetensors",
    ),
}


@pytest.mark.parametrize("command", ["samples", "chat", "merge", "card"])
def test_damaged_adapter_is_refused_with_its_file_and_a_remedy(
    searched: Cli, home: Path, command: str
) -> None:
    (folder,) = home.rglob("trial-0000")
    for name, (file, content, fault) in DAMAGES.items():
        whole = (folder / file).read_bytes()
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(content)
        done = searched(command, "best")
        words = " ".join(done.stdout.split())
        assert done.returncode == 2, (name, done.stdout)
        assert f"the adapter is damaged: {folder / file}: " in words and fault in words, name
        assert "train this one again: `vram-search train 0`" in words
        (folder / file).write_bytes(whole)


def test_weights_that_were_cut_off_are_refused(searched: Cli, home: Path) -> None:
    (file,) = home.rglob("trial-0000/adapter_model.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert "bytes instead of" in searched("samples", "best").stdout


def test_chat_answers_each_line_until_the_input_ends(
    searched: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n/new\nagain\n/bye\nmore\n"))
    done = searched("chat", "best")
    assert done.returncode == 0, done.stdout
    assert "tuned answer to hello" in done.stdout and "tuned answer to again" in done.stdout
    assert "answer to more" not in done.stdout
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert "untuned answer to hello" in searched("chat", "best", "--untuned").stdout
