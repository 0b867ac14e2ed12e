"""Hyperparameters that a study searches only if it names them reach the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from tests.factories import make_point
from vram_search.protocol import TrialJob
from vram_search.spec.study import TrainingSpec
from vram_search.train import model as base_model
from vram_search.train.examples import cut
from vram_search.train.faults import DivergedError
from vram_search.train.health import Health, parts_of
from vram_search.train.run import EncodedDataset, Trial, save_adapter
from vram_search.train.trainer import make_trainer

MakeJob = Callable[..., TrialJob]
POINT = make_point(
    optim="adamw_torch_fused", lora_rank=4, cutoff_len=96, batch_size=4, learning_rate=1e-3
)


def point(**changes: Any) -> Any:
    return POINT.model_copy(update=changes)


@pytest.fixture
def trainer_of(base: Any, encoded: EncodedDataset, make_job: MakeJob) -> Any:
    """Builds the Trainer of a job on a fresh adapter."""
    models = []

    def build(job: TrialJob) -> Any:
        models.append(base_model.attach_adapter(base, job))
        return make_trainer(
            models[-1],
            job,
            job.plan,
            [cut(row, 96) for row in encoded.train],
            steps=6,
            horizon=6,
            pad_token_id=0,
            callbacks=[],
        )

    yield build
    for model in models:
        base_model.detach_adapter(model)


def test_loraplus_trains_matrices_b_at_a_multiple_of_the_rate(
    trainer_of: Any, make_job: MakeJob
) -> None:
    job = make_job(
        hyperparameters=point(loraplus_lr_ratio=8.0), training=TrainingSpec(weight_decay=0.1)
    )
    trainer = trainer_of(job)
    groups = trainer.create_optimizer().param_groups
    by_rate = {group["lr"]: group for group in groups if group["params"]}
    assert set(by_rate) == {1e-3, 8e-3}
    fast = {id(parameter) for parameter in by_rate[8e-3]["params"]}
    names = {n for n, p in trainer.model.named_parameters() if id(p) in fast}
    assert names and all("lora_B" in name for name in names)
    assert {group["weight_decay"] for group in by_rate.values()} == {0.1}


def test_dora_and_rslora_are_settings_of_the_adapter(trainer_of: Any, make_job: MakeJob) -> None:
    model = trainer_of(make_job(hyperparameters=point(use_dora=True, use_rslora=True))).model
    layers = [module for module in model.modules() if hasattr(module, "lora_magnitude_vector")]
    assert layers and all(layer.lora_magnitude_vector for layer in layers)
    assert {layer.scaling["default"] for layer in layers} == {POINT.lora_alpha / math.sqrt(4)}


def test_trial_with_every_further_setting_completes_and_leaves_the_base_bare(
    base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    hooks = len(base.get_input_embeddings()._forward_hooks)
    everything = point(
        use_dora=True, use_rslora=True, loraplus_lr_ratio=4.0, neftune_noise_alpha=5.0
    )
    events: list[Any] = []
    job = make_job(hyperparameters=everything)
    finished = Trial(base, encoded, job, events.append, lambda: False).run()
    assert finished.outcome == "complete", finished.message
    assert base_model.trainable_parameters(base) == 0
    assert len(base.get_input_embeddings()._forward_hooks) == hooks


@pytest.mark.parametrize("method", ["olora", "pissa"])
def test_adapter_that_starts_from_the_base_leaves_it_bit_for_bit_and_is_saved_as_plain_lora(
    method: str, base: Any, encoded: EncodedDataset, make_job: MakeJob, tmp_path: Path
) -> None:
    before = {name: list(parts_of(p)) for name, p in base.named_parameters()}
    copies = {name: [part.clone() for part in parts] for name, parts in before.items()}
    job = make_job(hyperparameters=point(init_lora_weights=method, use_rslora=True))
    model = base_model.attach_adapter(base, job)
    changed = [n for n, p in base.named_parameters() if "base_layer.weight" in n]
    assert changed
    ids = torch.arange(24).view(1, -1)
    with torch.no_grad():
        for layer in model.modules():
            if hasattr(layer, "lora_B"):
                layer.lora_B["default"].weight += 0.1
        trained = model(input_ids=ids).logits
        save_adapter(model, tmp_path / "adapter")
    base_model.detach_adapter(model)
    after = {name: list(parts_of(p)) for name, p in base.named_parameters()}
    assert after.keys() == copies.keys()
    for name, parts in after.items():
        assert all(map(torch.equal, parts, copies[name])), name
    with torch.no_grad():
        untuned = base(input_ids=ids).logits
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
        plain = loaded(input_ids=ids).logits
        base_model.detach_adapter(loaded)
    effect = (trained - untuned).norm()
    assert (plain - trained).norm() < 0.5 * effect, "only the remainder's rounding differs"


@pytest.mark.parametrize("method", ["olora", "pissa"])
def test_trial_that_starts_from_the_base_completes_with_the_base_intact(
    method: str, base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    health = Health(base)
    events: list[Any] = []
    job = make_job(hyperparameters=point(init_lora_weights=method))
    finished = Trial(base, encoded, job, events.append, lambda: False).run()
    assert finished.outcome == "complete", finished.message
    assert health.examine(finished).base_intact


def test_noise_changes_the_training_and_ends_with_a_trial_that_is_cut_off(
    trainer_of: Any, base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    losses = []
    for alpha in (0.0, 50.0):
        job = make_job(hyperparameters=point(neftune_noise_alpha=alpha))
        events: list[Any] = []

        def cut_off() -> bool:
            raise DivergedError("at the rung")

        Trial(base, encoded, job, events.append, cut_off).run()
        losses.append(next(e.loss for e in reversed(events) if e.event == "step"))
        assert not base.get_input_embeddings()._forward_hooks
    assert losses[0] != losses[1]
