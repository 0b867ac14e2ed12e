"""transformers' Trainer set up for one adapter, and the callback that watches each of its steps."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from vram_search.errors import VramSearchError
from vram_search.protocol import Step, TrialJob
from vram_search.spec.plan import MemoryPlan
from vram_search.train.examples import TokenRow, collate
from vram_search.train.faults import DivergedError
from vram_search.train.model import allocated_bytes, compute_dtype


class RowDataset(Dataset[TokenRow]):
    """Rows as a torch data set."""

    def __init__(self, rows: Sequence[TokenRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenRow:
        return self.rows[index]


def make_trainer(
    model: Any,
    job: TrialJob,
    plan: MemoryPlan,
    rows: Sequence[TokenRow],
    *,
    steps: int,
    horizon: int,
    pad_token_id: int,
    callbacks: list[TrainerCallback],
) -> Trainer:
    """A Trainer for `steps` optimizer steps; the schedule's warm-up is a share of `horizon`."""
    hp, training = job.hyperparameters, job.training
    dtype, has_gpu = compute_dtype(), torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # nothing is written there: we save adapters ourselves
        per_device_train_batch_size=plan.per_device_train_batch_size,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        gradient_checkpointing=plan.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_liger_kernel=plan.enable_liger_kernel,
        optim=hp.optim,
        learning_rate=hp.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=warmup_steps(training.warmup_ratio, horizon),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        max_steps=steps,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        seed=job.seed,
        data_seed=job.seed,
        use_cpu=not has_gpu,
        dataloader_pin_memory=has_gpu,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=RowDataset(rows),
        data_collator=lambda batch: collate(batch, pad_token_id),
        callbacks=callbacks,
    )


class StepGuard(TrainerCallback):
    """Reports each step, and refuses to go on where nothing is learnt.

    Raises, out of `Trainer.train`:
        DivergedError: the loss or the gradient norm is not finite.
        VramSearchError: the gradient norm is 0.
    """

    def __init__(self, report: Callable[[Step], None]) -> None:
        self.report = report
        self.step_began = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step_began = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "grad_norm" not in logs:
            return  # the closing summary
        loss, norm = float(logs["loss"]), float(logs["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"loss {loss:g}, gradient norm {norm:g} at step {state.global_step}"
            )
        if norm == 0:
            raise VramSearchError(
                f"the gradient norm is 0 at step {state.global_step}: nothing is learnt",
                "rows whose answers are cut away give no gradient: raise cutoff_len",
            )
        self.report(
            Step(
                step=state.global_step,
                loss=loss,
                learning_rate=float(logs["learning_rate"]),
                grad_norm=norm,
                seconds=time.perf_counter() - self.step_began,
                allocated_bytes=allocated_bytes(),
            )
        )


def count_steps(job: TrialJob, rows: int) -> int:
    """Optimizer steps of the full horizon, counted as transformers' Trainer counts them
    (`Trainer.set_initial_training_values`)."""
    if job.training.max_steps is not None:
        return job.training.max_steps
    micro_batches = math.ceil(rows / job.plan.per_device_train_batch_size)
    per_epoch = math.ceil(micro_batches / job.plan.gradient_accumulation_steps)
    return math.ceil(job.training.epochs * per_epoch)


def rung_steps(rungs: Sequence[float], steps_total: int) -> tuple[int, ...]:
    """Steps at which a trial is evaluated before its end; none where a run is too short."""
    steps = {round(fraction * steps_total) for fraction in rungs}
    return tuple(sorted(step for step in steps if 0 < step < steps_total))


def warmup_steps(warmup_ratio: float, steps_total: int) -> int:
    """Whole steps, as `TrainingArguments.get_warmup_steps` rounds a ratio."""
    return math.ceil(warmup_ratio * steps_total)
