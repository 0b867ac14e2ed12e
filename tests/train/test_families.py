"""Families without a formula train a step, and their adapters are LLaMA-Factory's `all`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.model_code.built import shape_of
from tests.model_code.configs import TINY
from vram_search.protocol import LoadJob, TrialJob
from vram_search.train import model as base_model
from vram_search.train.evaluate import evaluate
from vram_search.train.examples import TokenRow
from vram_search.train.trainer import make_trainer

ROWS = [TokenRow(tuple(range(10, 26)), (-100,) * 4 + tuple(range(14, 26))) for _ in range(2)]
VISION = ("vision_tower", "multi_modal_projector")
"""What LLaMA-Factory 0.9.5 freezes of Gemma 3 (`model_utils/visual.py`)."""


def found_by_llamafactory(model: Any) -> set[str]:
    """The modules of `find_all_linear_modules`, in LLaMA-Factory's own words."""
    return {
        name
        for name, module in model.named_modules()
        if not any(forbidden in name for forbidden in ("lm_head", *VISION))
        and "Linear" in module.__class__.__name__
        and "Embedding" not in module.__class__.__name__
    }


@pytest.mark.parametrize("name", TINY)
def test_family_trains_a_step_on_the_layers_that_llamafactory_finds(
    name: str, load_job: LoadJob, make_job: Callable[..., TrialJob], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY[name]))
    base = base_model.load_base(load_job.model_copy(update={"model_name_or_path": str(tmp_path)}))
    expected, shape = found_by_llamafactory(base), shape_of(TINY[name])
    job = make_job(target_modules=tuple(shape.target_modules("all")))
    model = base_model.attach_adapter(base, job)
    adapted = {
        one.removesuffix(".lora_A").removeprefix("base_model.model.")
        for one, _ in model.named_modules()
        if one.endswith(".lora_A")
    }
    assert adapted == expected
    rank = job.hyperparameters.lora_rank
    assert base_model.trainable_parameters(model) == shape.lora_parameters("all", rank)
    trainer = make_trainer(
        model, job, job.plan, ROWS, steps=1, horizon=1, pad_token_id=0, callbacks=[]
    )
    trainer.train()
    log = next(entry for entry in trainer.state.log_history if "grad_norm" in entry)
    assert log["grad_norm"] > 0
    assert evaluate(model, ROWS, 1, 0).mean > 0
