"""Runs the training's longest batches before the training; their peak bounds all others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from transformers import TrainerCallback

from vram_search.protocol import Probed, Step, TrialJob
from vram_search.spec.plan import MemoryPlan
from vram_search.spec.steps import count_steps
from vram_search.train.breakdown import PeakRecorder
from vram_search.train.evaluate import evaluate
from vram_search.train.examples import TokenRow
from vram_search.train.faults import TrialPosition
from vram_search.train.trainer import AtStep, StepGuard, make_trainer

STEPS = 3
"""Optimizer steps: the states exist from the second on, and the third follows an evaluation."""
EVALUATION_AFTER = 2
MOST_ACCUMULATION = 2
"""Most micro-batches per step: the second one adds to existing gradients, as any later one does."""


def probe(
    model: Any,
    job: TrialJob,
    train_rows: Sequence[TokenRow],
    eval_rows: Sequence[TokenRow],
    pad_token_id: int,
    position: TrialPosition,
) -> Probed:
    """Runs two optimizer steps, an evaluation and one more step on the trial's longest rows.

    A step takes at most two of the plan's micro-batches: from the second on, a backward pass meets
    the same tensors as in any later one. Without a GPU no peak has to be bounded, and one row per
    batch shows that everything works.

    Args:
        eval_rows: rows cut at the longest cutoff at which the trial evaluates.
    """
    began, has_gpu = time.perf_counter(), torch.cuda.is_available()
    plan = probe_plan(job.plan, len(train_rows), has_gpu=has_gpu)
    batches = worst_case_batches(train_rows, plan.per_device_train_batch_size)
    eval_batches = worst_case_batches(eval_rows, plan.per_device_eval_batch_size)

    clock, recording = StepClock(), ExitStack()

    def evaluate_hardest(step: int) -> bool:
        for rows in eval_batches:
            evaluate(model, rows, len(rows), pad_token_id, position.note)
        recording.close()  # the last step is timed
        return False

    trainer = make_trainer(
        model,
        job,
        plan,
        repeated(batches, STEPS * plan.gradient_accumulation_steps),
        steps=STEPS,
        horizon=count_steps(job.training, job.plan, len(train_rows)),
        pad_token_id=pad_token_id,
        callbacks=[StepGuard(clock.report), AtStep((EVALUATION_AFTER,), evaluate_hardest), clock],
        position=position,
        order="sequential",
    )
    recorder = PeakRecorder(model, optimizer=lambda: trainer.optimizer)
    try:
        with recording:
            recording.enter_context(recorder)
            trainer.train()
    finally:
        position.parts = recorder.parts_now() or position.parts
    accumulation = job.plan.gradient_accumulation_steps / plan.gradient_accumulation_steps
    return Probed(
        allocated_bytes=torch.cuda.max_memory_allocated() if has_gpu else None,
        reserved_bytes=torch.cuda.max_memory_reserved() if has_gpu else None,
        seconds=time.perf_counter() - began,
        step_seconds=clock.step_seconds(accumulation) if has_gpu else None,
        parts=recorder.parts(),
    )


def probe_plan(plan: MemoryPlan, rows: int, *, has_gpu: bool) -> MemoryPlan:
    """Returns the plan reduced to the probe's needs; no micro-batch holds more than `rows`."""
    batch = accumulation = eval_batch = 1
    if has_gpu:
        batch = min(plan.per_device_train_batch_size, rows)
        accumulation = min(plan.gradient_accumulation_steps, MOST_ACCUMULATION)
        eval_batch = plan.per_device_eval_batch_size
    return plan.model_copy(
        update={
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
            "per_device_eval_batch_size": eval_batch,
        }
    )


def worst_case_batches(rows: Sequence[TokenRow], batch_size: int) -> list[list[TokenRow]]:
    """Returns the batch of these rows that takes most bytes: the longest rows.

    If these all have the same length but another batch may be padded, the longest padded batch
    comes second: only batches that are padded, or hold joined rows, have an attention mask of rows
    x tokens x tokens and the key and value heads repeated for it (transformers `masking_utils.py`,
    `integrations/sdpa_attention.py`). Of sequences of one length, those of several rows come first.
    """
    in_order = sorted(rows, key=lambda row: (-len(row.input_ids), not _has_borders(row)))
    longest, shortest = in_order[:batch_size], in_order[-1]
    if not _has_borders(longest[0]) and (several := [r for r in in_order if _has_borders(r)]):
        return [longest, [*longest[:-1], several[0]]]
    most = len(longest[0].input_ids)
    may_be_padded = len(longest) > 1 and len(shortest.input_ids) < most
    if may_be_padded and len(longest[-1].input_ids) == most:
        return [longest, [*longest[:-1], shortest]]
    return [longest]


def _has_borders(row: TokenRow) -> bool:
    """True for a sequence that was joined from several rows."""
    return row.position_ids is not None and row.position_ids.count(0) > 1


def repeated(batches: Sequence[list[TokenRow]], count: int) -> list[TokenRow]:
    """Returns the rows of `count` batches, taken in turn."""
    return [row for i in range(count) for row in batches[i % len(batches)]]


class StepClock(TrainerCallback):
    """Times the latest optimizer step and its micro-batches."""

    def __init__(self) -> None:
        self.began = self.micro_batches = self.whole = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.micro_batches = time.perf_counter() - self.began

    def report(self, step: Step) -> None:
        self.whole = step.seconds

    def step_seconds(self, accumulation: float) -> float:
        """Returns the seconds of a step with `accumulation` times the micro-batches."""
        return self.whole + self.micro_batches * (accumulation - 1)
