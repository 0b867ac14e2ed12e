"""Hyperparameters that a study searches only if it names them reach the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.factories import make_point
from vram_search.protocol import TrialJob
from vram_search.spec.study import TrainingSpec
from vram_search.train import model as base_model
from vram_search.train.examples import cut
from vram_search.train.faults import DivergedError
from vram_search.train.run import EncodedDataset, Trial
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
