"""The schema refuses what LLaMA-Factory accepts and what would not run."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from vram_search.data import Rows
from vram_search.export import TOOLS, export_files, exported_trial
from vram_search.export.llamafactory_schema import check_llamafactory
from vram_search.store import StudyRecord, TrialRecord


@pytest.fixture
def config(study: StudyRecord, trial: TrialRecord, rows: Rows) -> dict[str, Any]:
    files = export_files(TOOLS["llama-factory"], exported_trial(study, trial, rows))
    loaded = yaml.safe_load(files["demo-trial-7.yaml"])
    assert isinstance(loaded, dict)
    return loaded


def test_an_export_has_no_faults(config: dict[str, Any]) -> None:
    assert check_llamafactory(config) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_rank", 0),
        ("lora_rank", -8),
        ("lora_rank", 8.5),
        ("lora_rank", "8"),
        ("lora_rank", True),
        ("lora_alpha", 0),
        ("lora_target", ""),
        ("lora_target", "q_proj,nonexistent"),
        ("lora_target", "q_proj,,v_proj"),
        ("lora_target", "q_proj,q_proj"),
        ("lora_target", "all,q_proj"),
        ("lora_dropout", 1.0),
        ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", -1),
        ("per_device_eval_batch_size", 0),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", "2e-4"),
        ("learning_rate", True),
        ("optim", "adam_of_the_moon"),
        ("optim", ["adamw_8bit"]),
        ("lr_scheduler_type", "spiral"),
        ("max_steps", 0),
        ("max_steps", -1),
        ("warmup_steps", 91),
        ("warmup_steps", -1),
        ("eval_steps", 91),
        ("save_steps", 7),
        ("template", "no_such_template"),
        ("template", {}),
        ("cutoff_len", 0),
        ("trust_remote_code", True),
        ("quantization_bit", 3),
        ("packing", True),
        ("train_on_prompt", True),
        ("fp16", True),
        ("eval_dataset", "train"),
        ("output_dir", ""),
        ("output_dir", "."),
        ("output_dir", "saves"),
        ("output_dir", "../.."),
        ("report_to", "wandb"),
        ("model_name_or_path", "/models/${oc.env:HOME}"),
        ("group_by_length", True),
        ("evaluation_strategy", "steps"),
    ],
)
def test_a_wrong_value_is_a_fault(config: dict[str, Any], key: str, value: object) -> None:
    assert check_llamafactory(config | {key: value})


@pytest.mark.parametrize("key", ["lora_rank", "output_dir", "optim", "dataset"])
def test_a_missing_key_is_named(config: dict[str, Any], key: str) -> None:
    del config[key]
    assert [(fault.path, fault.message) for fault in check_llamafactory(config)] == [
        (key, "is missing")
    ]


def test_all_faults_are_reported_together(config: dict[str, Any]) -> None:
    faults = check_llamafactory(
        config | {"lora_rank": 0, "optim": "?", "lora_target": "x_proj", "unknown": 1}
    )
    assert {fault.path for fault in faults} == {"lora_rank", "optim", "lora_target", "unknown"}


def test_keys_that_are_no_text_are_faults(config: dict[str, Any]) -> None:
    odd: dict[Any, Any] = config | {}
    odd[1] = 2
    assert check_llamafactory(odd)
