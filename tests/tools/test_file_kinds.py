"""Files of another purpose are named, with the command that takes them."""

from __future__ import annotations

import gzip
import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from vram_search.cli.main import cli
from vram_search.errors import InputError
from vram_search.tools.file_kinds import kind_of_file, naming_other_files

AXOLOTL = "base_model: Qwen/Qwen3-4B\nadapter: qlora\nsequence_len: 2048\nlora_r: 16\n"
ROWS = '{"instruction": "a", "output": "b"}\n{"instruction": "c", "output": "d"}\n'
FILES = {
    "dataset_info.json": (
        json.dumps({"identity": {"file_name": "identity.json"}}),
        "LLaMA-Factory's list of data sets",
        "vram-search data identity --dataset-dir {folder}",
    ),
    "package.json": ('{"name": "x", "version": "1"}', "the description of a software project", ""),
    "tokenizer.json": ("{}", "a part of a tokenizer", "vram-search data ROWS --model {folder}"),
    "copy.json": ('{"model": {}, "added_tokens": []}', "a part of a tokenizer", "--model {folder}"),
    "adapter_config.json": ('{"peft_type": "LORA"}', "an adapter's settings (peft)", "import"),
    "trainer_state.json": ("{}", "a file of a training's output folder", "import {folder}"),
    "log.jsonl": ('{"current_steps": 1, "total_steps": 2}', "a file of a training's", "import"),
    "config.json": ('{"architectures": [], "model_type": "a"}', "a model's config.json", "--model"),
    "deepspeed.json": ('{"zero_optimization": {"stage": 3}}', "a file of DeepSpeed", ""),
    "titan.toml": ('[job]\ndump_folder = "o"\n', "a file of torchtitan", ""),
    "Cargo.toml": ('[package]\nname = "x"\n', "a TOML file of no tool that is known", ""),
    "axolotl.yaml": (AXOLOTL, "a training file of Axolotl", "vram-search estimate {file}"),
    "mine.yaml": ("study: a\nmodel: b\n", "a study", "vram-search run {file}"),
    "card.yaml": ("name: a\ntotal_bytes: 1\n", "the description of a card", "card: in a study"),
    "rows.jsonl": (ROWS, "a file of rows", "vram-search data {file}"),
    "rows.csv": ("\ufeffquestion;answer\r\na;b\r\n", "a file of rows", "vram-search data {file}"),
    "sweep.csv": ('"Name","eval/loss"\na,1.0\n', "a table of runs", "vram-search import {file}"),
    "curve.csv": ("Wall time,Step,Value\n1,2,3\n", "one curve of TensorBoard", "import {folder}"),
    "sheet.csv": ("Run;LR;Val loss\na;1e-4;1,3\n", "a table of runs", "import {file}"),
    "aim.csv": ("hash,hparams.lr\na,1\n", "a table of runs", "import {file}"),
    "lauf.csv": ("Lauf;Lernrate\na;1\n", "a table", ""),
    "chart.csv": ("Step,a - eval/loss,a - eval/loss__MIN\n1,2,2\n", "the curve of one run", ""),
    "history.csv": ("_step,_timestamp,train/loss\n1,2,3\n", "the curve of one run", "table"),
    "wandb.json": ('[{"summary": {}, "config": {}}]', "a table of runs", ""),
    "events.out.tfevents.1.host.2": ("x", "TensorBoard's event file", "output folder"),
    "chat.jinja": ("{{ messages }}", "a chat template", "--template {file}"),
    "compose.yaml": ("services: {}\n", "a file of Docker Compose", ""),
    "other.yaml": ("license: mit\n", "no file of a study, of a training or of rows", ""),
    "train.py": ("import torch\n", "a program", ""),
    "job.sbatch": ("#!/bin/sh\n", "a program", ""),
    "Dockerfile": ("FROM x\n", "a program", ""),
    "README.md": ("# A\n", "a document", ""),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_known_purpose_is_recognised(tmp_path: Path, name: str) -> None:
    text, what, remedy = FILES[name]
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    kind = kind_of_file(file)
    assert kind is not None
    assert kind.what.startswith(what)
    folder, path = shlex.quote(str(tmp_path)), shlex.quote(str(file))
    assert remedy.format(folder=folder, file=path) in kind.remedy


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("runs.db", b"SQLite format 3\0\0", "a database"),
        ("model.gguf", b"GGUF\3\0", "a model's weights (GGUF)"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}", "a file of weights"),
        ("rows.xlsx", b"PK\x03\x04", "a spreadsheet"),
        ("rows.zip", b"PK\x03\x04", "an archive"),
        ("rows.json.gz", gzip.compress(ROWS.encode(), mtime=0), "a file of rows"),
        ("part-0.parquet", b"PAR1", "a file of rows"),
    ],
)
def test_a_binary_file_is_recognised(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    kind = kind_of_file(tmp_path / name)
    assert kind is not None
    assert kind.what == what


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1, 2]", b"nothing"])
def test_other_files_are_of_no_known_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert kind_of_file(tmp_path / "x.json") is None
    assert kind_of_file(tmp_path) is None


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("data", name) for name in ("dataset_info.json", "package.json", "compose.yaml")),
        *(("data", name) for name in ("sweep.csv", "log.jsonl", "README.md", "trainer_state.json")),
        *(("estimate", name) for name in ("rows.jsonl", "tokenizer.json", "dataset_info.json")),
        *(("import", name) for name in ("axolotl.yaml", "mine.yaml", "rows.csv", "config.json")),
        *(("data", name) for name in ("titan.toml", "Cargo.toml")),
        *(
            ("run", name)
            for name in ("titan.toml", "axolotl.yaml", "rows.jsonl", "card.yaml", "other.yaml")
        ),
        *(("queue add", name) for name in ("axolotl.yaml", "train.py")),
    ],
)
def test_each_command_says_what_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text, what, _remedy = FILES[name]
    Path(name).write_text(text, encoding="utf-8")
    result = CliRunner().invoke(cli, [*command.split(), name])
    assert isinstance(result.exception, InputError)
    assert f"{name}: this is {what}" in result.exception.message
    assert result.exception.remedy
    assert "\n" not in str(result.exception.message)


def test_a_study_s_own_faults_are_not_hidden(tmp_path: Path) -> None:
    study = tmp_path / "mine.yaml"
    study.write_text("study: a\nmodel: b\n", encoding="utf-8")
    with pytest.raises(InputError, match="a fault"), naming_other_files(study, "run"):
        raise InputError("a fault")
