"""Models of several parts train on text alone: adapters in the text model, the rest frozen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.model_code.built import shape_of
from tests.model_code.configs import WRAPPERS
from tests.train.test_families import ROWS
from vram_search.protocol import LoadJob, TrialJob
from vram_search.spec.base_storage import frozen_part_words, predicted_storage
from vram_search.train import model as base_model
from vram_search.train.evaluate import evaluate
from vram_search.train.storage import differing_tree
from vram_search.train.trainer import make_trainer

TEXT = ("language_model.", "text_model.")
"""Names of the text part; Phi-4-multimodal's has none of its own."""


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapper_trains_on_text_with_its_other_parts_frozen_and_counted(
    name: str, load_job: LoadJob, make_job: Callable[..., TrialJob], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(WRAPPERS[name]))
    base = base_model.load_base(load_job.model_copy(update={"model_name_or_path": str(tmp_path)}))
    shape = shape_of(WRAPPERS[name])
    assert shape.tree is not None and shape.tree.has_other_parts
    assert differing_tree(base, predicted_storage(shape)) is None, "every part is counted"
    others = {n: p.clone() for n, p in base.named_parameters() if "vision" in n or "visual" in n}
    assert others
    assert "frozen, and text alone does not run them" in frozen_part_words(shape.tree)
    job = make_job(target_modules=tuple(shape.target_modules("all")))
    model = base_model.attach_adapter(base, job)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    for full in trained:
        of_text = any(word in full for word in TEXT)
        assert of_text or (name == "phi4_multimodal" and "embed_tokens_extend" not in full), full
    trainer = make_trainer(
        model, job, job.plan, ROWS, steps=1, horizon=1, pad_token_id=0, callbacks=[]
    )
    trainer.train()
    log = next(entry for entry in trainer.state.log_history if "grad_norm" in entry)
    assert log["grad_norm"] > 0
    assert evaluate(model, ROWS, 1, 0).mean > 0
    base = base_model.detach_adapter(model)
    after = dict(base.named_parameters())
    assert all(torch.equal(after[n], values) for n, values in others.items())
