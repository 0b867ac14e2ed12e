"""`python -m bench.recipes.count` on a few training files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.recipes import cases
from bench.recipes import count as counting

ROOT = Path(__file__).parents[2]
AXOLOTL = "base_model: Qwen/Qwen2.5-3B\nadapter: {adapter}\nload_in_4bit: true\nlora_r: 8\n"
LLAMA_FACTORY = "model_name_or_path: somebody/unheard-of\nfinetuning_type: lora\nlora_rank: 8\n"


@pytest.fixture
def count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs `python -m bench.recipes.count` in this process and returns its output."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["count", *map(str, arguments)])
        counting.main()
        return capsys.readouterr().out

    return run


def test_files_with_an_adapter_are_counted_and_refusals_are_listed(
    tmp_path: Path, count: Callable[..., str]
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "qlora.yml").write_text(AXOLOTL.format(adapter="qlora"))
    (tmp_path / "sub" / "lora.yaml").write_text(LLAMA_FACTORY)
    (tmp_path / "bad.yaml").write_text(LLAMA_FACTORY.replace("8", "many"))
    (tmp_path / "full.yaml").write_text("base_model: Qwen/Qwen2.5-3B\n")
    (tmp_path / "list.yaml").write_text("- not a training file\n")
    output = count(tmp_path)
    assert output.startswith("2 of 3 files with an adapter are read\n")
    assert "sub/lora.yaml: somebody/unheard-of: its model is not found" in output
    assert "bad.yaml: somebody/unheard-of: lora_rank: is not a whole number" in output
    assert count(tmp_path, "--all").startswith("3 of 4 files are read\n")


def test_model_of_every_file_can_be_replaced(tmp_path: Path, count: Callable[..., str]) -> None:
    (tmp_path / "lora.yaml").write_text(LLAMA_FACTORY)
    output = count(tmp_path, "--model", "qwen2.5-0.5b")
    assert output == "1 of 1 files with an adapter are read\n"


def test_answers_to_reported_cases_are_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second case is refused, and is listed as such."""
    for case, rank in (("A01", 32), ("A05", "many")):
        (tmp_path / case).mkdir()
        recipe = AXOLOTL.format(adapter="qlora") + "micro_batch_size: 2\nsequence_len: 2048\n"
        (tmp_path / case / "axolotl.yaml").write_text(recipe.replace("8", str(rank), 1))
        command = f"vram-search estimate {case}/axolotl.yaml --card rtx-a6000-48gb"
        (tmp_path / case / "cmd.txt").write_text(command + "\n")
    monkeypatch.setattr(sys, "argv", ["cases", str(tmp_path), "--before", str(ROOT)])
    cases.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| case | training | reported | before | now | difference |"
    first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    assert first[0] == "A01" and first[2] == "5.1 GiB"
    assert first[3] == first[4] and first[4].endswith("GiB, fits")
    assert first[5].endswith("%")
    assert second[3:] == ["refused", "refused", ""]
