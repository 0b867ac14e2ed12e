"""One trial in the training process, top to bottom: probe, train to each rung, evaluate, keep."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback

from vram_search.errors import VramSearchError
from vram_search.protocol import (
    AnyEvent,
    Evaluated,
    Finished,
    Probed,
    Stage,
    Step,
    TrialJob,
    finite,
)
from vram_search.spec.plan import MemoryPlan
from vram_search.train import model as base_model
from vram_search.train.evaluate import Losses, evaluate
from vram_search.train.examples import EncodedExample, TokenRow, answer_bytes, cut
from vram_search.train.faults import (
    DivergedError,
    first_sentences,
    is_out_of_memory,
    requested_bytes,
)
from vram_search.train.trainer import StepGuard, count_steps, make_trainer, rung_steps

PROBE_STEPS = 2
"""Optimizer steps before the probe's evaluation: from the second on, the states exist."""

Outcome = Literal["complete", "pruned", "oom", "diverged", "failed"]


@dataclass(frozen=True)
class Corpus:
    """The study's encoded rows, and the tokenizer that made them."""

    train: list[EncodedExample]
    eval: list[EncodedExample]
    tokenizer: Any


class AtStep(TrainerCallback):
    """Calls `action(step)` after each of the given optimizer steps; True ends the training."""

    def __init__(self, steps: tuple[int, ...], action: Callable[[int], bool]) -> None:
        self.steps, self.action = steps, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.steps and self.action(state.global_step):
            control.should_training_stop = True


class Trial:
    """One trial on the resident base model; `run` is its life.

    Args:
        base: what `load_base` gave; as before when `run` returns, unless memory ran out.
        send: takes each event.
        ask_verdict: True where the supervisor wants the trial pruned; asked at each rung.
    """

    def __init__(
        self,
        base: Any,
        corpus: Corpus,
        job: TrialJob,
        send: Callable[[AnyEvent], None],
        ask_verdict: Callable[[], bool],
    ) -> None:
        self.base, self.corpus, self.job = base, corpus, job
        self.send, self.ask_verdict = send, ask_verdict
        self.pad_token_id = corpus.tokenizer.pad_token_id
        self.train_rows = [cut(row, job.hyperparameters.cutoff_len) for row in corpus.train]
        self.eval_rows = [cut(row, job.eval_cutoff_len) for row in corpus.eval]
        self.eval_bytes = [answer_bytes(row, corpus.tokenizer) for row in self.eval_rows]
        self.steps_total = count_steps(job, len(self.train_rows))
        self.stage, self.step = "probe", 0
        self.best_loss = math.inf
        self.best_step: int | None = None
        self.trainable: int | None = None
        self.seconds = {"probe": 0.0, "train": 0.0, "eval": 0.0, "save": 0.0}

    def run(self) -> Finished:
        """Probe and train. What ends the trial early becomes its outcome."""
        before = base_model.allocated_bytes() or 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            with self._adapter() as model, self._timed("probe"):
                self._probe(model)
            with self._adapter() as model:
                outcome, message = self._train(model)
            finished = self._finished(outcome, message)
        except DivergedError as error:
            finished = self._finished("diverged", str(error))
        except VramSearchError as error:
            finished = self._finished("failed", error.message, error.remedy)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return self._finished("oom", first_sentences(str(error)))
        base_model.free_caches()
        leaked = (base_model.allocated_bytes() or 0) - before
        return finished.model_copy(update={"leaked_bytes": leaked})

    @contextmanager
    def _adapter(self) -> Iterator[Any]:
        """A fresh adapter, equal for equal seeds, taken off at the end."""
        model = base_model.attach_adapter(self.base, self.job)
        self.trainable = base_model.trainable_parameters(model)
        try:
            if self.trainable == 0:
                raise VramSearchError("no parameter trains: the LoRA targets match no module")
            yield model
        finally:
            base_model.detach_adapter(model)

    def _probe(self, model: Any) -> None:
        """The mini-test: the longest rows at the plan's shape, two optimizer steps, the longest
        evaluation batch, one more step. Its peak must bound the training's.

        Without a GPU there is no peak: one row a batch shows that everything works.
        """
        self._enter("probe")
        start, plan = time.perf_counter(), self.job.plan
        if not torch.cuda.is_available():
            plan = MemoryPlan(
                per_device_train_batch_size=1,
                gradient_accumulation_steps=1,
                gradient_checkpointing=plan.gradient_checkpointing,
            )
        rows = longest_first(self.train_rows)[: plan.per_device_train_batch_size]
        while len(rows) < plan.batch_size * (PROBE_STEPS + 1):
            rows = rows + rows
        exam = longest_first(self.eval_rows)[: plan.per_device_eval_batch_size]

        def evaluate_once(step: int) -> bool:
            evaluate(model, exam, plan.per_device_eval_batch_size, self.pad_token_id)
            return False

        self._fit(model, plan, rows, PROBE_STEPS + 1, AtStep((PROBE_STEPS,), evaluate_once))
        has_gpu = torch.cuda.is_available()
        self.send(
            Probed(
                allocated_bytes=torch.cuda.max_memory_allocated() if has_gpu else None,
                reserved_bytes=torch.cuda.max_memory_reserved() if has_gpu else None,
                seconds=time.perf_counter() - start,
            )
        )

    def _train(self, model: Any) -> tuple[Outcome, str]:
        """The full run: its outcome, and a word about it."""
        self._enter("train")
        rungs = rung_steps(self.job.training.rungs, self.steps_total)
        pruned_at: list[int] = []

        def stop_at_rung(step: int) -> bool:
            self._evaluate(model, step, is_rung=True)
            if self.ask_verdict():
                pruned_at.append(step)
            return bool(pruned_at)

        with self._timed("train"):
            at_rungs = AtStep(rungs, stop_at_rung)
            self._fit(model, self.job.plan, self.train_rows, self.steps_total, at_rungs)
        self.seconds["train"] -= self.seconds["eval"] + self.seconds["save"]
        if pruned_at:
            return "pruned", f"behind other trials at step {pruned_at[0]} of {self.steps_total}"
        self._evaluate(model, self.steps_total, is_rung=False)
        if self.best_step is None:
            return "diverged", "no evaluation gave a finite loss"
        return "complete", ""

    def _fit(
        self, model: Any, plan: MemoryPlan, rows: list[TokenRow], steps: int, at: TrainerCallback
    ) -> None:
        if not plan.gradient_checkpointing:
            self.base.gradient_checkpointing_disable()
        report = self._report if self.stage == "train" else lambda step: None
        make_trainer(
            model,
            self.job,
            plan,
            rows,
            steps=steps,
            horizon=self.steps_total,
            pad_token_id=self.pad_token_id,
            callbacks=[StepGuard(report), at],
        ).train()

    def _report(self, step: Step) -> None:
        self.step = step.step
        self.send(step)

    def _evaluate(self, model: Any, step: int, *, is_rung: bool) -> None:
        """Losses of the study's evaluation rows; the best adapter so far is saved."""
        self._enter("eval")
        start = time.perf_counter()
        with self._timed("eval"):
            batch_size = self.job.plan.per_device_eval_batch_size
            losses = evaluate(model, self.eval_rows, batch_size, self.pad_token_id)
            own = None if is_rung else self._own_cutoff_loss(model, losses)
        if math.isfinite(losses.mean) and losses.mean < self.best_loss:
            self.best_loss, self.best_step = losses.mean, step
            with self._timed("save"):
                save_adapter(model, Path(self.job.adapter_folder))
        self.send(
            Evaluated(
                step=step,
                fraction=step / self.steps_total,
                is_rung=is_rung,
                eval_loss=finite(losses.mean),
                own_cutoff_eval_loss=None if own is None else finite(own),
                bits_per_byte=finite(losses.bits_per_byte(self.eval_bytes)),
                example_loss_sums=tuple(finite(value) for value in losses.sums),
                seconds=time.perf_counter() - start,
            )
        )
        self._enter("train")

    def _own_cutoff_loss(self, model: Any, losses: Losses) -> float:
        """The loss at the trial's own cutoff_len, which is what other tools print. Only rows that
        this cutoff changes are evaluated again."""
        rows = [cut(row, self.job.hyperparameters.cutoff_len) for row in self.corpus.eval]
        changed = [i for i, row in enumerate(rows) if row != self.eval_rows[i]]
        sums, tokens = list(losses.sums), list(losses.tokens)
        if changed:
            batch_size = self.job.plan.per_device_eval_batch_size
            again = evaluate(model, [rows[i] for i in changed], batch_size, self.pad_token_id)
            for i, loss_sum, count in zip(changed, again.sums, again.tokens, strict=True):
                sums[i], tokens[i] = loss_sum, count
        return Losses(tuple(sums), tuple(tokens)).mean

    def _enter(self, stage: Literal["probe", "train", "eval"]) -> None:
        self.stage = stage
        self.send(Stage(stage=stage, steps_total=self.steps_total))

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    def _finished(self, outcome: Outcome, message: str, remedy: str = "") -> Finished:
        has_gpu = torch.cuda.is_available()
        longest = max(len(row.input_ids) for row in self.train_rows)
        return Finished(
            outcome=outcome,
            stage=self.stage,
            step=self.step,
            steps_total=self.steps_total,
            message=message,
            remedy=remedy,
            requested_bytes=requested_bytes(message),
            batch_shape=(self.job.plan.per_device_train_batch_size, longest),
            allocated_bytes=torch.cuda.max_memory_allocated() if has_gpu else None,
            reserved_bytes=torch.cuda.max_memory_reserved() if has_gpu else None,
            trainable_parameters=self.trainable,
            best_step=self.best_step,
            seconds=dict(self.seconds),
        )


def longest_first(rows: list[TokenRow]) -> list[TokenRow]:
    return sorted(rows, key=lambda row: -len(row.input_ids))


def save_adapter(model: Any, folder: Path) -> None:
    """The adapter as safetensors; a reader sees the old one or the new one, never half of one."""
    fresh = folder.with_name(folder.name + ".new")
    old = folder.with_name(folder.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    model.save_pretrained(fresh, safe_serialization=True, save_embedding_layers=False)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
