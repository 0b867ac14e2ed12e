"""Answers and evaluation of the untuned model, on a tiny model in NF4 on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.test_training import run, weights
from vram_search.errors import InputError
from vram_search.protocol import EvaluateBaseJob, GenerateJob, TrialJob
from vram_search.spec.study import TrainingSpec
from vram_search.train import model as base_model
from vram_search.train.evaluate import evaluate
from vram_search.train.examples import cut
from vram_search.train.generate import evaluate_base, generate
from vram_search.train.run import EncodedDataset

CONVERSATIONS = ((("user", "3?"),), (("system", "Be brief."), ("user", "5?")))


def answers(base: Any, encoded: EncodedDataset, adapter: str | None) -> tuple[str, ...]:
    job = GenerateJob(conversations=CONVERSATIONS, adapter_folder=adapter, max_new_tokens=8)
    return generate(base, encoded.tokenizer, "2026-01-01", job).answers


def test_untuned_loss_is_that_of_a_new_adapter(
    base: Any, encoded: EncodedDataset, make_job: Callable[..., TrialJob]
) -> None:
    found = evaluate_base(base, encoded, EvaluateBaseJob(eval_cutoff_len=96))
    rows = [cut(row, 96) for row in encoded.eval]
    model = base_model.attach_adapter(base, make_job())
    try:
        losses = evaluate(model, rows, 1, encoded.tokenizer.pad_token_id)
    finally:
        base_model.detach_adapter(model)
    assert found.eval_loss == pytest.approx(losses.mean, rel=1e-5)
    assert len(found.example_loss_sums) == 4
    assert found.bits_per_byte is not None and found.bits_per_byte > 0


def test_kept_adapter_answers_otherwise_and_leaves_the_base_as_it_was(
    base: Any, encoded: EncodedDataset, make_job: Callable[..., TrialJob]
) -> None:
    job = make_job(training=TrainingSpec(max_steps=12, rungs=()), learning_rate=1e-1)
    finished, _ = run(base, encoded, job)
    assert finished.outcome == "complete"
    before, untuned = weights(base), answers(base, encoded, None)
    tuned = answers(base, encoded, job.adapter_folder)
    assert len(tuned) == 2 and tuned != untuned
    assert tuned == answers(base, encoded, job.adapter_folder)  # greedy
    after = weights(base)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert answers(base, encoded, None) == untuned


def test_adapter_that_peft_cannot_read_is_one_sentence(
    base: Any, encoded: EncodedDataset, make_job: Callable[..., TrialJob]
) -> None:
    """Settings and weights are whole, and do not fit each other or the model."""
    job = make_job(training=TrainingSpec(max_steps=1, rungs=()))
    run(base, encoded, job)
    file = Path(job.adapter_folder) / "adapter_config.json"
    settings = json.loads(file.read_text())
    for change in (
        {"r": 2 * settings["r"]},
        {"target_modules": ["nowhere"]},
        {"target_modules": [*settings["target_modules"], "lm_head"]},
        {"rank_pattern": {"q_proj": "many"}},
        {"task_type": 7},
        {"init_lora_weights": {"a": 1}},
    ):
        file.write_text(json.dumps(settings | change))
        with pytest.raises(InputError, match=r"the adapter in .* is damaged: ") as found:
            answers(base, encoded, job.adapter_folder)
        assert "\n" not in found.value.message, change
        if hasattr(base, "peft_config"):
            del base.peft_config
