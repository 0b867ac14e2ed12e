"""The evaluation that an export gives a tool: what it takes, and what becomes of it then."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from tests.export.conftest import MakeStudy
from vram_search.data import Rows
from vram_search.export import TOOLS, export_files, exported_trial, parse_export
from vram_search.export.fields import LORA_MODULES
from vram_search.resources import shipped
from vram_search.spec import load_shape
from vram_search.spec.card import Card, load_card
from vram_search.store import StudyRecord, TrialRecord
from vram_search.units import GIB

IN_FP32 = ["llama-factory", "axolotl", "peft"]
"""Tools that turn a whole batch's logits into fp32."""
SHAPE = load_shape(shipped("configs", "models", "qwen2.5-3b"))
CARD = Card.model_validate(load_card("rtx-5060-ti-16gb"))
KEYS = {"axolotl": "eval_batch_size"}


@pytest.fixture
def study(make_study: MakeStudy) -> StudyRecord:
    return make_study(
        card=CARD.model_dump(mode="json"), search_space={"cutoff_len": [1024, 4096, 16384]}
    )


def long_trial(trial: TrialRecord, *, cutoff_len: int, liger: bool = True) -> TrialRecord:
    plan = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
        "enable_liger_kernel": liger,
        "per_device_eval_batch_size": 4,
        "expandable_segments": True,
    }
    hyperparameters = trial.hyperparameters | {"lora_target": "all", "cutoff_len": cutoff_len}
    return replace(trial, hyperparameters=hyperparameters, plan=plan)


def exported(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows, eval_cutoff_len: int
) -> tuple[dict[str, Any], str]:
    """Its keys, those of all parts of a script's file together, and its text."""
    ready = exported_trial(study, trial, rows, shape=SHAPE)
    ready = replace(ready, eval_cutoff_len=eval_cutoff_len)
    text = next(iter(export_files(TOOLS[tool], ready).values()))
    config = yaml.safe_load(text)
    assert TOOLS[tool].check(config, LORA_MODULES) == []
    return config | config.get("training", {}), text


def batch(tool: str, config: dict[str, Any]) -> int:
    size: int = config[KEYS.get(tool, "per_device_eval_batch_size")]
    return size


@pytest.mark.parametrize("tool", IN_FP32)
def test_an_evaluation_that_would_be_the_peak_gets_a_smaller_batch_and_its_bytes_are_named(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    config, text = exported(tool, study, long_trial(trial, cutoff_len=1024), rows, 1024)
    assert batch(tool, config) == 1
    assert config["eval_strategy"] == "steps"
    named = re.search(r"into fp32: ([0-9.]+) GiB allocated", text)
    assert named is not None
    logits_gib = 10 * SHAPE.vocab_size * 1024 / GIB
    assert logits_gib + 1.9 < float(named[1]) < logits_gib + 2.5, "logits beside a base of 1.9 GiB"
    assert "more than the training takes" in text


@pytest.mark.parametrize("tool", IN_FP32)
def test_an_evaluation_below_the_training_stays_as_it_was(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    config, text = exported(
        tool, study, long_trial(trial, cutoff_len=1024, liger=False), rows, 1024
    )
    assert batch(tool, config) == 4
    assert "into fp32" not in text


@pytest.mark.parametrize("tool", IN_FP32)
def test_where_not_even_one_row_fits_the_card_nothing_is_evaluated_and_all_checkpoints_stay(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    config, text = exported(tool, study, long_trial(trial, cutoff_len=16384), rows, 16384)
    assert config["eval_strategy"] == "no"
    assert "eval_steps" not in config
    assert "load_best_model_at_end" not in config
    assert "save_total_limit" not in config
    assert trial.eval_loss_step is not None
    assert trial.eval_loss_step % config["save_steps"] == 0
    assert f"The trial's best step was {trial.eval_loss_step}." in text
    assert parse_export(TOOLS[tool], text)["plan"]["per_device_train_batch_size"] == 4


@pytest.mark.parametrize("tool", ["trl", "unsloth"])
def test_a_tool_whose_loss_is_fused_in_evaluations_too_evaluates_as_the_trial_did(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    config, text = exported(tool, study, long_trial(trial, cutoff_len=16384), rows, 16384)
    assert batch(tool, config) == 4
    assert config["eval_strategy"] == "steps"
    assert "into fp32" not in text


@pytest.mark.parametrize(("tool", "size"), [("llama-factory", 4), ("axolotl", 1), ("peft", 1)])
def test_the_rows_that_count_are_those_that_the_tool_evaluates(
    tool: str, size: int, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    """LLaMA-Factory cuts evaluation rows where it cuts training rows."""
    short = long_trial(trial, cutoff_len=1024, liger=False)
    config, _ = exported(tool, study, short, rows, 4096)
    assert batch(tool, config) == size


@pytest.mark.parametrize("tool", IN_FP32)
def test_rows_that_the_trial_found_shorter_than_the_cutoff_count_as_they_are(
    tool: str, study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    short = long_trial(trial, cutoff_len=16384)
    short = replace(short, predicted={"longest_tokens": 1024, "longest_eval_tokens": 700})
    config, text = exported(tool, study, short, rows, 16384)
    assert config["eval_strategy"] == "steps"
    assert batch(tool, config) == 1
    assert "into fp32" not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"eval_steps": None},
        {"eval_strategy": "no"},
        {"eval_strategy": "no", "eval_steps": None},
        {"eval_strategy": "epoch"},
    ],
)
def test_evaluation_keys_that_exclude_each_other_are_refused(
    changes: dict[str, Any], study: StudyRecord, trial: TrialRecord, rows: Rows
) -> None:
    config, _ = exported("llama-factory", study, trial, rows, 256)
    odd = {key: value for key, value in (config | changes).items() if value is not None}
    assert TOOLS["llama-factory"].check(odd, LORA_MODULES)
