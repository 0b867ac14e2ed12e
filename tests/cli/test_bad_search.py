"""Searches that cannot be as their study says: one message, exit code 2, nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL = {"weights": "random", "shape": "qwen2.5-0.5b"}
Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {
                "model": [
                    {**SMALL, "name": "a"},
                    {"weights": "random", "shape": "shape", "name": "a"},
                ]
            },
            ["model", "a"],
        ),
        (
            {
                "model": [SMALL, {"weights": "random", "shape": "phi-3-mini-4k"}],
                "objective": "bits_per_byte",
                "search_space": {"lora_target": ["q_proj,v_proj"]},
            },
            ["search_space.lora_target[0]", "model phi-3-mini-4k", "q_proj"],
        ),
        ({"search_space": {"lora_target": ["x_proj"]}}, ["search_space.lora_target[0]", "x_proj"]),
        ({"search_space": {"use_dora": ["sometimes"]}}, ["search_space.use_dora"]),
        ({"search_space": {"lora_dropout": [1.5]}}, ["search_space.lora_dropout"]),
        ({"constraints": {"max_adapter_mib": 1e-6}}, ["constraints.max_adapter_mib", "no point"]),
        ({"points": [{"model": "x"}]}, ["points[0]: model 'x'", "the study has one base model"]),
        ({"objective": "eval_lost"}, ["objective"]),
        ({"objective": "../own.py:score"}, ["objective"]),
        ({"objective": "own.py:score"}, ["objective", "no file own.py"]),
        ({"parallel_trials": 0}, ["1 fault", "parallel_trials: is neither auto nor"]),
        ({"parallel_trials": "many"}, ["1 fault", "parallel_trials: is neither auto nor"]),
        ({"parallel_trials": True}, ["1 fault", "parallel_trials: is neither auto nor"]),
        (
            {"search_space": {"optim": ["lion_8bit"], "loraplus_lr_ratio": [1, 16]}},
            ["search_space.loraplus_lr_ratio needs an AdamW optimizer"],
        ),
        (
            {
                "search_space": {
                    "optim": ["lion_8bit", "adamw_8bit"],
                    "loraplus_lr_ratio": [1, 16],
                },
                "points": [{"optim": "lion_8bit", "loraplus_lr_ratio": 16}],
            },
            ["points[0]: loraplus_lr_ratio 16", "because it needs an AdamW optimizer"],
        ),
        (
            {
                "search_space": {
                    "init_lora_weights": ["default", "pissa"],
                    "use_dora": [True, False],
                },
                "points": [{"use_dora": True, "init_lora_weights": "pissa"}],
            },
            ["points[0]: init_lora_weights 'pissa'", "because it needs use_dora: false"],
        ),
    ],
)
def test_a_search_that_cannot_be_is_one_message(
    vram_search_without_training: Cli,
    write_study: Callable[..., Path],
    home: Path,
    changes: dict[str, Any],
    words: list[str],
) -> None:
    done = vram_search_without_training("run", write_study(**changes))
    said = " ".join(done.stdout.split())
    assert done.returncode == 2, said
    assert all(word in said for word in words), said
    assert "Traceback" not in said


def test_bits_per_byte_needs_answers_with_text(
    vram_search_without_training: Cli, write_study: Callable[..., Path], home: Path, tmp_path: Path
) -> None:
    silent = [{"instruction": f"say nothing {i}", "output": " "} for i in range(4)]
    (tmp_path / "silent.jsonl").write_text("\n".join(map(json.dumps, silent)))
    rows = {"train": "rows.jsonl", "eval": "silent.jsonl"}
    study = write_study(objective="bits_per_byte", dataset=rows)
    done = vram_search_without_training("run", study)
    assert done.returncode == 2
    assert "silent.jsonl: 4 of 4 rows cannot be used" in " ".join(done.stdout.split())
