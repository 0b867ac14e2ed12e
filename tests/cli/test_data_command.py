"""`vram-search data` shows what would be trained; `run --dry-run` finds what would be refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vram_search.answers.data import histogram, percentile, suggested_cutoff
from vram_search.cli.main import main
from vram_search.train.tokenizer import byte_tokenizer
from vram_search.worker import gguf_base

ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def talk(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows, one of them bad and one repeated, and a tokenizer whose template is strict."""
    rows = [talk(("user", f"ask {n}"), ("assistant", "yes " * n)) for n in range(1, 19)]
    rows += [rows[3], talk(("user", "only asked"))]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = ALTERNATING
    tokenizer.save_pretrained(tmp_path / "tok")
    return tmp_path


VramSearch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def vram_search(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> VramSearch:
    """Runs the command line in this process, in `folder`."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["vram-search", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return subprocess.CompletedProcess(sys.argv, code, *capsys.readouterr())

    return run


def test_tokenizer_of_a_gguf_file_is_that_of_its_converted_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(gguf_base, "converted_gguf", lambda file, note: folder / "tok")
    monkeypatch.setattr(sys, "argv", ["vram-search", "data", "rows.jsonl", "--model", "model.gguf"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == 0
    assert "tokens are learnt" in capsys.readouterr().out


def test_rows_are_shown_with_their_tokens_and_the_learnt_part_marked(
    vram_search: VramSearch,
) -> None:
    done = vram_search("data", "rows.jsonl", "--model", "tok")
    assert done.returncode == 0, done.stderr
    assert "17 training, 2 evaluation; 1 cannot be used" in done.stdout
    assert "messages: 20" in done.stdout
    assert "<user>ask 5</><assistant>\n>>>yes yes yes yes yes </><<<" in done.stdout
    assert "cutoff_len" in done.stdout and "suggested cutoff_len: 128" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_json_counts_what_repeats(vram_search: VramSearch) -> None:
    done = vram_search("data", "rows.jsonl", "--json", "--eval", "rows.jsonl")
    answer = json.loads(done.stdout)
    assert (answer["train_rows"], answer["duplicates"], answer["overlap"]) == (19, 1, 19)
    assert answer["lengths"]["unit"] == "characters"
    assert answer["suggested_cutoff_len"] is None


def test_missing_file_is_one_message(vram_search: VramSearch) -> None:
    done = vram_search("data", "gone.jsonl")
    assert done.returncode == 2
    assert "no such file" in done.stderr and "Traceback" not in done.stderr


def test_remedy_for_unknown_columns_works_as_it_is_written(
    folder: Path, vram_search: VramSearch
) -> None:
    (folder / "pairs.jsonl").write_text('{"source": "a", "ziel": "b"}\n' * 4)
    refused = vram_search("data", "pairs.jsonl")
    override = refused.stderr.partition("--set '")[2].partition("'")[0]
    assert override == "dataset.columns={prompt: source, response: ziel}"
    assert vram_search("data", "pairs.jsonl", "--set", override).returncode == 0
    for wrong, words in (
        ("columns=x", "is not a key of the data set"),
        ("dataset.colums={a: b}", "dataset.colums: "),
        ("dataset.columns", "not of the form key=value"),
    ):
        done = vram_search("data", "pairs.jsonl", "--set", wrong)
        assert done.returncode == 2 and words in done.stderr


def test_dry_run_finds_a_row_that_the_template_refuses(
    folder: Path, home: Path, vram_search: VramSearch
) -> None:
    shape = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512}
    (folder / "config.json").write_text(json.dumps(shape))
    rows = [talk(("user", "a"), ("user", "b"), ("assistant", "c"))] * 4
    (folder / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    study = {
        "study": "odd",
        "model": {"weights": "random", "shape": "config.json", "tokenizer": "tok"},
        "dataset": {"train": "odd.jsonl"},
        "card": "rtx-4090-24gb",
        "search_space": {"lora_target": ["qv"], "cutoff_len": [64], "batch_size": [2]},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    done = vram_search("run", "study.yaml", "--dry-run")
    assert done.returncode == 2
    assert "(it begins 'a'): the chat template refuses it: roles must alternate" in done.stderr
    assert "Traceback" not in done.stderr


def test_lengths_are_summed_up() -> None:
    lengths = [*range(1, 100), 1000]
    assert [percentile(lengths, share) for share in (0, 50, 99, 100)] == [1, 50, 99, 1000]
    assert sum(rows for _, _, rows in histogram(lengths)) == 100
    assert histogram([5, 5]) == [(5, 5, 2)]
    assert [suggested_cutoff([size]) for size in (9, 200, 257, 1024)] == [16, 256, 512, 1024]
