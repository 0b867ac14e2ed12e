"""Sets up transformers' Trainer for one adapter, with a callback that watches each step."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from peft.optimizers import create_loraplus_optimizer
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from vram_search.errors import VramSearchError
from vram_search.protocol import Step, TrialJob
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.plan import MemoryPlan
from vram_search.train.checkpoint import Checkpoint
from vram_search.train.device import compute_dtype
from vram_search.train.examples import TokenRow, collate
from vram_search.train.faults import DivergedError, TrialPosition, noting_parts
from vram_search.train.model import allocated_bytes, to_device, with_type_ids
from vram_search.train.patches import steps_in_the_background, without_noise_afterwards
from vram_search.train.training_state import (
    restore_adapter,
    restore_optimizer,
    restore_random_state,
)

CHECKPOINT_SHARE = 0.01
"""Largest share of the time that checkpoints may take."""
Order = Literal["random", "sequential"]
"""The order of the rows: shuffled by the job's seed, or as given."""


class RowDataset(Dataset[TokenRow]):
    """A torch data set of rows."""

    def __init__(self, rows: Sequence[TokenRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenRow:
        return self.rows[index]


class AdapterTrainer(Trainer):
    """A transformers Trainer that forms its micro-batches out of whole optimizer steps.

    The sampler draws the rows as usual. Within an optimizer step they are sorted by length, so that
    a micro-batch pads less; the step's gradient is a sum over its tokens, divided by their number
    (`Trainer._get_num_items_in_batch`), and stays the same. Where a model's loss is a mean per
    micro-batch instead (`model_accepts_loss_kwargs` false), the rows stay as they were drawn.
    """

    def __init__(
        self,
        *,
        pad_token_id: int,
        position: TrialPosition,
        checkpoint: Checkpoint | None = None,
        save: Callable[[AdapterTrainer], None] | None = None,
        loraplus_lr_ratio: float = 1.0,
        **trainer: Any,
    ) -> None:
        super().__init__(**trainer)
        self.pad_token_id, self.position = pad_token_id, position
        self.checkpoint, self.save = checkpoint, save
        self.loraplus_lr_ratio = loraplus_lr_ratio

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with (
            steps_in_the_background(is_paged=OPTIMIZERS[self.args.optim.value].paged),
            noting_parts(self.position, self.model, lambda: self.optimizer),
            without_noise_afterwards(self.model),
        ):
            if self.checkpoint is not None:
                kwargs["resume_from_checkpoint"] = str(self.checkpoint.folder)
            return super().train(*args, **kwargs)

    # transformers pickles optimizer, schedule and random numbers (`trainer.py`, 5.17 to 5.24).

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.save is not None, "only CheckpointClock asks for a checkpoint"
        self.save(self)

    def _load_from_checkpoint(self, folder: str, model: Any = None) -> None:
        assert self.checkpoint is not None
        restore_adapter(self.model, self.checkpoint.state)

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        if self.checkpoint is not None:
            restore_optimizer(self, self.checkpoint.state)

    def _load_scaler(self, folder: str | None) -> None:
        """`restore_optimizer` has restored it."""

    def _load_rng_state(self, folder: str | None) -> None:
        if self.checkpoint is not None:
            restore_random_state(self.checkpoint.state)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Creates the optimizer; with LoRA+, matrices B learn faster than matrices A."""
        if self.loraplus_lr_ratio == 1:
            return super().create_optimizer(model)
        optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = create_loraplus_optimizer(
            self.model,
            optimizer_class,
            loraplus_lr_ratio=self.loraplus_lr_ratio,
            loraplus_weight_decay=self.args.weight_decay,
            **arguments,
        )
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        drawn = list(itertools.islice(epoch_iterator, num_batches))
        is_shuffled = self.args.train_sampling_strategy == "random"
        if is_shuffled and len(drawn) > 1 and self.model_accepts_loss_kwargs:
            drawn = by_length(drawn)
        batches = [
            with_type_ids(self.model, to_device(collate(rows, self.pad_token_id), device))
            for rows in drawn
        ]
        return batches, self._get_num_items_in_batch(batches, device)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        rows, tokens = inputs["input_ids"].shape
        self.position.step = self.state.global_step + 1
        self.position.note((rows, tokens))
        return super().training_step(model, inputs, *args, **kwargs)


def by_length(drawn: Sequence[Sequence[TokenRow]]) -> list[list[TokenRow]]:
    """Sorts the rows into micro-batches of the same number and sizes, longest rows first."""
    rows = iter(sorted(itertools.chain(*drawn), key=lambda row: -len(row.input_ids)))
    return [list(itertools.islice(rows, len(batch))) for batch in drawn]


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
    position: TrialPosition | None = None,
    order: Order = "random",
    checkpoint: Checkpoint | None = None,
    save: Callable[[AdapterTrainer], None] | None = None,
) -> AdapterTrainer:
    """Builds a Trainer for `steps` optimizer steps; the warm-up is a share of `horizon`.

    Args:
        position: updated during the training.
        order: order of the rows; sequential rows also stay in the micro-batches that they form.
        checkpoint: the training goes on from it.
        save: called when a callback asks for a checkpoint.
    """
    hp, training = job.hyperparameters, job.training
    dtype, has_gpu = compute_dtype(), torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # the Trainer writes nothing there
        per_device_train_batch_size=plan.per_device_train_batch_size,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        gradient_checkpointing=plan.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        optim=hp.optim,
        learning_rate=hp.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=warmup_steps(training.warmup_ratio, horizon),
        weight_decay=training.weight_decay,
        neftune_noise_alpha=hp.neftune_noise_alpha or None,
        max_grad_norm=training.max_grad_norm,
        max_steps=steps,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        seed=job.seed,
        data_seed=job.seed,
        use_cpu=not has_gpu,
        dataloader_pin_memory=False,  # rows leave the loader as they are; batches are pinned
        train_sampling_strategy=order,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    return AdapterTrainer(
        pad_token_id=pad_token_id,
        position=position or TrialPosition(),
        checkpoint=checkpoint,
        save=save,
        loraplus_lr_ratio=hp.loraplus_lr_ratio,
        model=model,
        args=arguments,
        train_dataset=RowDataset(rows),
        data_collator=list,
        callbacks=callbacks,
    )


class AtStep(TrainerCallback):
    """Calls `action(step)` after each of the given optimizer steps; True ends the training."""

    def __init__(self, steps: tuple[int, ...], action: Callable[[int], bool]) -> None:
        self.steps, self.action = steps, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.steps and self.action(state.global_step):
            control.should_training_stop = True


class CheckpointClock(TrainerCallback):
    """Asks for a checkpoint when it is due; it comes after callbacks that evaluate.

    Args:
        seconds: at least so many between two checkpoints. They stay further apart where writing
            one takes more than CHECKPOINT_SHARE of that.
    """

    def __init__(self, seconds: float) -> None:
        self.interval = seconds
        self.last = self.began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        is_going_on = state.global_step < state.max_steps and not control.should_training_stop
        self.began = time.monotonic()
        if is_going_on and self.began - self.last >= self.interval:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.monotonic()
        self.interval = max(self.interval, (self.last - self.began) / CHECKPOINT_SHARE)


class StepGuard(TrainerCallback):
    """Reports each step and stops a training in which nothing is learnt.

    It comes before callbacks that evaluate at a step's end, because their time is not the step's.

    Raises, out of `Trainer.train`:
        DivergedError: the loss or the gradient norm is not finite.
        VramSearchError: the gradient norm is 0.
    """

    def __init__(self, report: Callable[[Step], None]) -> None:
        self.report = report
        self.began = self.seconds = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # costs nothing: the loss is read next
        self.seconds = time.perf_counter() - self.began

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
                seconds=self.seconds,
                allocated_bytes=allocated_bytes(),
            )
        )


def rung_steps(rungs: Sequence[float], steps_total: int) -> tuple[int, ...]:
    """Returns the steps at which a trial is evaluated before its end; none if it is too short."""
    steps = {round(fraction * steps_total) for fraction in rungs}
    return tuple(sorted(step for step in steps if 0 < step < steps_total))


def warmup_steps(warmup_ratio: float, steps_total: int) -> int:
    """Returns the whole warm-up steps, rounded as `TrainingArguments.get_warmup_steps` does."""

    return math.ceil(warmup_ratio * steps_total)
