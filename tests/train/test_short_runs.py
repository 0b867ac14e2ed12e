"""The short runs of a calibration, as far as they go without a GPU."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch

from vram_search.spec.shape import parse_shape
from vram_search.train import calibrate
from vram_search.train import model as base_model
from vram_search.train.calibrate import CONFIG, EQUAL, PADDED, fit, load_random, trial_job

TINY = {**CONFIG, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128}


def test_the_short_training_is_a_trial_in_nf4_that_learns(tmp_path: Path) -> None:
    job = trial_job()
    base = load_random({**TINY, "num_attention_heads": 4}, tmp_path)
    model = base_model.attach_adapter(base, job)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(bnb.nn.Linear4bit) == 2 * len(job.target_modules)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    fit(model, job, (24, 16))
    after = dict(model.named_parameters())
    assert all(math.isfinite(after[name].sum().item()) for name in before)
    assert any(not value.equal(after[name]) for name, value in before.items())


def test_the_job_names_every_linear_layer_of_the_shape() -> None:
    shape, job = parse_shape(CONFIG, "config"), trial_job()
    assert set(job.target_modules) == set(shape.target_modules(job.hyperparameters.lora_target))


def test_equal_texts_need_no_padding_and_unequal_ones_always_do() -> None:
    assert len(set(EQUAL)) == 1
    assert len(set(PADDED)) == len(PADDED)


def test_a_torch_without_a_gpu_is_one_line_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with out.open("w") as output, log.open("w") as errors, monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["calibrate", "constants"])
        patched.setattr(sys, "stdin", io.StringIO("\n"))
        patched.setattr(sys, "stdout", output)
        patched.setattr(sys, "stderr", errors)
        patched.setattr(calibrate, "silence_libraries", lambda: None)
        patched.setattr(torch.cuda, "is_available", lambda: False)
        calibrate.main()
    assert "finds no GPU" in json.loads(out.read_text())["fault"]


@pytest.mark.slow
def test_a_process_without_a_gpu_prints_one_line_of_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vram_search.train.calibrate", "constants"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=True,
    )
    assert "finds no GPU" in json.loads(done.stdout)["fault"]
