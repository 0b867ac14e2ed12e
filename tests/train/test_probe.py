"""The probe's batches weigh as much as any of the training's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_search.protocol import TrialJob
from vram_search.spec import MemoryPlan
from vram_search.spec.study import TrainingSpec
from vram_search.train import model as base_model
from vram_search.train import probe as probe_module
from vram_search.train.examples import TokenRow, cut
from vram_search.train.faults import TrialPosition
from vram_search.train.probe import StepClock, probe, probe_plan, worst_case_batches
from vram_search.train.run import EncodedDataset, Trial

MakeJob = Callable[..., TrialJob]


def row(length: int) -> TokenRow:
    return TokenRow((5,) * length, (5,) * length)


def weight(batch: list[TokenRow]) -> tuple[int, int, bool]:
    """Rows, tokens of the longest, and whether a padding mask is needed."""
    lengths = {len(row.input_ids) for row in batch}
    return len(batch), max(lengths), len(lengths) > 1


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_no_batch_is_longer_or_padded_where_the_probe_is_not(
    lengths: list[int], batch_size: int, random: Any
) -> None:
    rows = [row(length) for length in lengths]
    hardest = [weight(batch) for batch in worst_case_batches(rows, batch_size)]
    drawn = weight(random.sample(rows, min(batch_size, len(rows))))
    assert all(count == drawn[0] for count, _, _ in hardest)
    assert any(longest >= drawn[1] and padded >= drawn[2] for _, longest, padded in hardest)
    assert any(longest >= drawn[1] and padded <= drawn[2] for _, longest, padded in hardest) or all(
        padded for _, _, padded in hardest
    )


def test_rows_that_all_reach_the_cutoff_but_one_are_probed_padded_too() -> None:
    plain, padded = worst_case_batches([row(8), row(3), row(8), row(8)], 2)
    assert [len(r.input_ids) for r in plain] == [8, 8]
    assert [len(r.input_ids) for r in padded] == [8, 3]


def test_probe_takes_two_micro_batches_of_the_plans_shape() -> None:
    plan = MemoryPlan(
        per_device_train_batch_size=4,
        gradient_accumulation_steps=16,
        gradient_checkpointing=True,
        per_device_eval_batch_size=3,
    )
    probed = probe_plan(plan, 100, has_gpu=True)
    assert (probed.per_device_train_batch_size, probed.gradient_accumulation_steps) == (4, 2)
    assert probed.per_device_eval_batch_size == 3
    assert probed.gradient_checkpointing
    assert probe_plan(plan, 3, has_gpu=True).per_device_train_batch_size == 3
    assert probe_plan(plan, 100, has_gpu=False).batch_size == 1


class Log(TrialPosition):
    """Keeps every batch's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int]] = []

    def note(self, batch_shape: tuple[int, int]) -> None:
        self.shapes.append(batch_shape)


def as_on_a_gpu(plan: MemoryPlan, rows: int, *, has_gpu: bool) -> MemoryPlan:
    return probe_plan(plan, rows, has_gpu=True)


def test_every_batch_of_the_probe_is_a_longest_one(
    base: Any, encoded: EncodedDataset, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "probe_plan", as_on_a_gpu)
    job, log = make_job(), Log()
    rows, eval_rows = ([cut(row, 128) for row in part] for part in (encoded.train, encoded.eval))
    model = base_model.attach_adapter(base, job)
    probed = probe(model, job, rows, eval_rows, encoded.tokenizer.pad_token_id, log)
    base_model.detach_adapter(model)
    train, test = (max(len(row.input_ids) for row in part) for part in (rows, eval_rows))
    assert log.shapes == [(2, train)] * 4 + [(2, test)] + [(2, train)] * 2
    assert (probed.allocated_bytes, probed.step_seconds, probed.parts) == (None, None, {})


@pytest.mark.parametrize(("own_cutoff", "eval_cutoff"), [(96, 40), (40, 96)])
def test_probe_evaluates_at_the_longer_of_both_cutoffs(
    base: Any, encoded: EncodedDataset, make_job: MakeJob, own_cutoff: int, eval_cutoff: int
) -> None:
    training = TrainingSpec(max_steps=1, rungs=())
    job = make_job(cutoff_len=own_cutoff, eval_cutoff_len=eval_cutoff, training=training)
    trial, log = Trial(base, encoded, job, lambda event: None, lambda: True), Log()
    trial.position = log
    trial.run()
    probed_eval = log.shapes[2]
    assert max(len(cut(row, 999).input_ids) for row in encoded.eval) > 40
    assert probed_eval[1] == max(len(cut(row, 96).input_ids) for row in encoded.eval)


def test_step_seconds_scale_the_micro_batches_alone() -> None:
    clock = StepClock()
    clock.whole, clock.micro_batches = 0.5, 0.4
    assert clock.step_seconds(1) == pytest.approx(0.5)
    assert clock.step_seconds(8) == pytest.approx(0.1 + 8 * 0.4)
