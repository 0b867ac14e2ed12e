"""Rows of one optimizer step are put into micro-batches by length: less padding, the same step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from bitsandbytes.optim import optimizer as bnb_optimizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import Trainer

from vram_search.protocol import Step, TrialJob
from vram_search.spec import MemoryPlan
from vram_search.train import model as base_model
from vram_search.train import trainer as trainer_module
from vram_search.train.examples import TokenRow, collate
from vram_search.train.patches import steps_in_the_background
from vram_search.train.trainer import (
    AdapterTrainer,
    StepGuard,
    by_length,
    make_trainer,
)

MakeJob = Callable[..., TrialJob]
LENGTHS = (90, 5, 40, 7, 64, 12, 33, 80, 21, 9, 55, 16, 48, 6)
STEPS = 3
"""An epoch of 14 rows is a step of 8 and one of 6; the third belongs to the next."""


@pytest.fixture
def job(make_job: MakeJob) -> TrialJob:
    return make_job(
        plan=MemoryPlan(
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            gradient_checkpointing=False,
        )
    )


def rows() -> list[TokenRow]:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, 500, (n,), generator=generator).tolist() for n in LENGTHS]
    return [TokenRow(tuple(line), tuple(line)) for line in ids]


class Watched:
    """What a training made of the rows."""

    def __init__(self, base: Any, job: TrialJob, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Step] = []
        self.drawn: list[list[TokenRow]] = []
        self.micro_batches: list[list[TokenRow]] = []
        sample = AdapterTrainer.get_batch_samples

        def watch_collate(batch: Sequence[TokenRow], pad_token_id: int) -> Any:
            self.micro_batches.append(list(batch))
            return collate(batch, pad_token_id)

        def watch_sample(trainer: Any, iterator: Any, count: int, device: Any) -> Any:
            drawn = [next(iterator) for _ in range(count)]
            self.drawn += drawn
            return sample(trainer, iter(drawn), count, device)

        with monkeypatch.context() as patched:
            patched.setattr(trainer_module, "collate", watch_collate)
            patched.setattr(AdapterTrainer, "get_batch_samples", watch_sample)
            model = base_model.attach_adapter(base, job)
            make_trainer(
                model,
                job,
                job.plan,
                rows(),
                steps=STEPS,
                horizon=STEPS,
                pad_token_id=0,
                callbacks=[StepGuard(self.steps.append)],
            ).train()
            base_model.detach_adapter(model)

    @property
    def padding(self) -> int:
        """Tokens."""
        lengths = [[len(row.input_ids) for row in batch] for batch in self.micro_batches]
        return sum(max(batch) - length for batch in lengths for length in batch)


def test_grouped_steps_have_the_loss_and_gradient_of_plain_ones_and_pad_less(
    base: Any, job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped = Watched(base, job, monkeypatch)
    monkeypatch.setattr(trainer_module, "by_length", lambda drawn: drawn)
    plain = Watched(base, job, monkeypatch)
    assert [step.loss for step in grouped.steps] == pytest.approx(
        [step.loss for step in plain.steps], rel=1e-4
    )
    assert [step.grad_norm for step in grouped.steps] == pytest.approx(
        [step.grad_norm for step in plain.steps], rel=5e-3
    )
    assert plain.micro_batches == plain.drawn == grouped.drawn
    assert 0 < grouped.padding < 0.6 * plain.padding


def test_rows_are_drawn_as_transformers_own_trainer_draws_them(
    base: Any, job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[TokenRow]] = []

    def watch_collate(batch: Sequence[TokenRow]) -> Any:
        drawn.append(list(batch))
        return collate(batch, 0)

    ours = Watched(base, job, monkeypatch)
    model = base_model.attach_adapter(base, job)
    arguments = make_trainer(
        model, job, job.plan, rows(), steps=STEPS, horizon=STEPS, pad_token_id=0, callbacks=[]
    ).args
    plain = Trainer(
        model=model,
        args=arguments,
        train_dataset=trainer_module.RowDataset(rows()),
        data_collator=watch_collate,
    )
    plain.train()
    base_model.detach_adapter(model)
    # accelerate's loader reads a batch ahead.
    assert ours.drawn == drawn[: len(ours.drawn)]
    assert len(ours.drawn) == 4 + 3 + 4


def test_model_whose_loss_is_a_mean_per_micro_batch_keeps_its_rows_as_drawn(
    base: Any, job: TrialJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "accepts_loss_kwargs", False, raising=False)
    watched = Watched(base, job, monkeypatch)
    assert watched.micro_batches == watched.drawn


@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4), min_size=1, max_size=5))
def test_grouping_keeps_rows_and_batch_sizes(lengths: list[list[int]]) -> None:
    drawn = [[TokenRow((n,) * n, (n,) * n) for n in batch] for batch in lengths]
    grouped = by_length(drawn)
    assert [len(batch) for batch in grouped] == [len(batch) for batch in drawn]
    flat = [len(row.input_ids) for batch in grouped for row in batch]
    assert flat == sorted((n for batch in lengths for n in batch), reverse=True)


@pytest.mark.parametrize(("is_paged", "waits"), [(False, 0), (True, 1)])
def test_only_paged_optimizers_wait_for_the_card_after_every_tensor(
    monkeypatch: pytest.MonkeyPatch, is_paged: bool, waits: int
) -> None:
    waited: list[torch.Tensor] = []
    monkeypatch.setattr(bnb_optimizer, "sync_gpu", waited.append)
    before = bnb_optimizer.sync_gpu
    with steps_in_the_background(is_paged=is_paged):
        weight = torch.nn.Parameter(torch.ones(8))
        weight.grad = torch.ones(8)
        optimizer = bnb_optimizer.Optimizer2State("adam", [weight], 1e-3, optim_bits=32)
        optimizer.step()
    assert len(waited) == waits
    assert bnb_optimizer.sync_gpu is before
