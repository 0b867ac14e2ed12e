"""Runs one trial in the training process: probes, trains to each rung, evaluates, saves."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vram_search.errors import VramSearchError
from vram_search.protocol import (
    AnyEvent,
    CheckpointRefused,
    Evaluated,
    Finished,
    Probed,
    Resumed,
    Stage,
    Step,
    TrialJob,
    finite,
)
from vram_search.spec.steps import count_steps
from vram_search.train import model as base_model
from vram_search.train.answers import AnswerScorer
from vram_search.train.checkpoint import (
    Checkpoint,
    Manifest,
    checkpoint_identity,
    find_checkpoint,
    write_checkpoint,
)
from vram_search.train.evaluate import Losses, evaluate
from vram_search.train.examples import EncodedExample, TokenRow, answer_bytes, cut, training_rows
from vram_search.train.faults import (
    DivergedError,
    TrialPosition,
    first_sentences,
    is_out_of_host_memory,
    is_out_of_memory,
    noting_parts,
    requested_bytes,
)
from vram_search.train.probe import probe
from vram_search.train.trainer import (
    AdapterTrainer,
    AtStep,
    CheckpointClock,
    StepGuard,
    make_trainer,
    rung_steps,
)
from vram_search.train.training_state import take_state

Outcome = Literal["complete", "pruned", "oom", "diverged", "failed"]


@dataclass(frozen=True)
class EncodedDataset:
    """The study's encoded rows and the tokenizer that encoded them.

    Attributes:
        learnt_bytes: UTF-8 bytes of each evaluation row's answers, of a study over models with
            several tokenizers; None counts the bytes of the tokens.
    """

    train: list[EncodedExample]
    eval: list[EncodedExample]
    tokenizer: Any
    learnt_bytes: list[int] | None = None

    def answer_bytes(self, rows: Sequence[TokenRow]) -> list[int]:
        """Returns the bytes of the evaluation rows' answers, as the cutoff leaves them."""
        if self.learnt_bytes is not None:
            return self.learnt_bytes
        return [answer_bytes(row, self.tokenizer) for row in rows]


class Trial:
    """One trial on the resident base model; `run` runs it from start to end.

    Args:
        base: the model that `load_base` returned; unchanged when `run` returns, unless memory ran
            out.
        send: called with each event.
        ask_verdict: called at each rung; returns True if the supervisor wants the trial pruned.
        loaded: hashes, package versions and device of this process; a checkpoint of others is not
            used.
        on_batch: called before each batch.
    """

    def __init__(
        self,
        base: Any,
        encoded: EncodedDataset,
        job: TrialJob,
        send: Callable[[AnyEvent], None],
        ask_verdict: Callable[[], bool],
        loaded: Mapping[str, str] | None = None,
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        self.base, self.encoded, self.job = base, encoded, job
        self._send, self.ask_verdict = send, ask_verdict
        self.identity = checkpoint_identity(loaded or {}, job)
        self.steps: list[Step] = []
        self.evaluations: list[Evaluated] = []
        self.pad_token_id = encoded.tokenizer.pad_token_id
        self.train_rows = training_rows(encoded.train, job.hyperparameters)
        self.eval_rows = [cut(row, job.eval_cutoff_len) for row in encoded.eval]
        self.eval_bytes = encoded.answer_bytes(self.eval_rows)
        self.steps_total = count_steps(job.training, job.plan, len(self.train_rows))
        self.position = TrialPosition(on_batch=on_batch)
        self.scorer = None
        if job.answers is not None:
            self.scorer = AnswerScorer(
                job.answers, encoded.eval, encoded.tokenizer, job.answers.date
            )
        self.best_loss = math.inf
        self.best_step: int | None = None
        self.trainable: int | None = None
        self.seconds = {"probe": 0.0, "train": 0.0, "eval": 0.0, "save": 0.0}

    def send(self, event: AnyEvent) -> None:
        """Sends an event; a checkpoint holds the steps and evaluations that were sent."""
        if isinstance(event, Step):
            self.steps.append(event)
        elif isinstance(event, Evaluated):
            self.evaluations.append(event)
        self._send(event)

    def run(self) -> Finished:
        """Probes and trains; an error that ends the trial early becomes its outcome."""
        before = base_model.allocated_bytes() or 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            self._enter("probe")
            with self._adapter() as model, self._timed("probe"):
                self.send(self._probe(model))
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
            return self.out_of_memory(error)
        base_model.free_caches()
        leaked = (base_model.allocated_bytes() or 0) - before
        return finished.model_copy(update={"leaked_bytes": leaked})

    def out_of_memory(self, error: Exception) -> Finished:
        """Returns the trial's end after `error`, an out-of-memory (`faults.is_out_of_memory`)."""
        message = str(error) or type(error).__name__
        finished = self._finished("oom", first_sentences(message))
        found = {
            "requested_bytes": requested_bytes(message),
            "parts": self.position.parts,
            "is_host_memory": torch.cuda.is_available() and is_out_of_host_memory(error),
        }
        return finished.model_copy(update=found)

    @contextmanager
    def _adapter(self) -> Iterator[Any]:
        """Attaches a new adapter, equal for equal seeds, and detaches it at the end."""
        model = base_model.attach_adapter(self.base, self.job)
        self.trainable = base_model.trainable_parameters(model)
        try:
            if self.trainable == 0:
                raise VramSearchError("no parameter trains: the LoRA targets match no module")
            with noting_parts(self.position, model, lambda: None):
                yield model
        finally:
            base_model.detach_adapter(model)

    def _probe(self, model: Any) -> Probed:
        longest = max(self.job.eval_cutoff_len, self.job.hyperparameters.cutoff_len)
        eval_rows = [cut(row, longest) for row in self.encoded.eval]
        return probe(model, self.job, self.train_rows, eval_rows, self.pad_token_id, self.position)

    def _train(self, model: Any) -> tuple[Outcome, str]:
        """Runs the full training and returns its outcome and a remark about it."""
        self.position.step, self.position.batch_shape = 0, None
        self._enter("train")
        rungs = rung_steps(self.job.training.rungs, self.steps_total)
        pruned_at: list[int] = []

        def stop_at_rung(step: int) -> bool:
            self._evaluate(model, step, is_rung=True)
            if self.ask_verdict():
                pruned_at.append(step)
            return bool(pruned_at)

        with self._timed("train"):
            checkpoint = self._resume()
            make_trainer(
                model,
                self.job,
                self.job.plan,
                self.train_rows,
                steps=self.steps_total,
                horizon=self.steps_total,
                pad_token_id=self.pad_token_id,
                callbacks=[
                    StepGuard(self.send),
                    AtStep(rungs, stop_at_rung),
                    *self._checkpoint_clock(),
                ],
                position=self.position,
                checkpoint=checkpoint,
                save=self._save_checkpoint,
            ).train()
        if pruned_at:
            return "pruned", f"stopped early at step {pruned_at[0]} of {self.steps_total}"
        self._evaluate(model, self.steps_total, is_rung=False)
        if self.best_step is None:
            return "diverged", "no evaluation gave a finite loss"
        return "complete", ""

    def _resume(self) -> Checkpoint | None:
        """Returns the checkpoint of an earlier training of this trial, and takes its results."""
        if self.job.checkpoint_folder is None:
            return None
        found, reason = find_checkpoint(Path(self.job.checkpoint_folder), self.identity)
        if reason:
            self._send(CheckpointRefused(reason=reason))
        if found is None:
            return None
        manifest = found.manifest
        found.restore_best_adapter(Path(self.job.adapter_folder))
        if manifest.best_loss is not None:
            self.best_loss, self.best_step = manifest.best_loss, manifest.best_step
        self.steps, self.evaluations = list(manifest.steps), list(manifest.evaluations)
        self._send(
            Resumed(step=manifest.step, steps=manifest.steps, evaluations=manifest.evaluations)
        )
        return found

    def _checkpoint_clock(self) -> list[CheckpointClock]:
        seconds = self.job.training.checkpoint_every * 60
        is_wanted = self.job.checkpoint_folder is not None and seconds > 0
        return [CheckpointClock(seconds)] if is_wanted else []

    def _save_checkpoint(self, trainer: AdapterTrainer) -> None:
        """Writes a checkpoint. A full disk ends no training."""
        assert self.job.checkpoint_folder is not None, "only then there is a clock"
        manifest = Manifest(
            step=trainer.state.global_step,
            identity=self.identity,
            best_loss=finite(self.best_loss),
            best_step=self.best_step,
            steps=tuple(self.steps),
            evaluations=tuple(self.evaluations),
        )
        with self._timed("save"), contextlib.suppress(OSError):
            write_checkpoint(
                Path(self.job.checkpoint_folder),
                manifest,
                take_state(trainer),
                trainer.state,
                Path(self.job.adapter_folder),
            )

    def _evaluate(self, model: Any, step: int, *, is_rung: bool) -> None:
        """Evaluates the study's evaluation rows and saves the adapter if it is the best so far."""
        self._enter("eval")
        start = time.perf_counter()
        with self._timed("eval"):
            batch_size = self.job.plan.per_device_eval_batch_size
            note = self.position.note
            losses = evaluate(model, self.eval_rows, batch_size, self.pad_token_id, note)
            own = None if is_rung else self._own_cutoff_loss(model, losses)
            errors = None if self.scorer is None else self.scorer.errors(model, note)
        error = None if errors is None else sum(errors) / len(errors)
        ranking = losses.mean if error is None else error
        if math.isfinite(losses.mean) and ranking < self.best_loss:
            self.best_loss, self.best_step = ranking, step
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
                answer_error=error,
                answer_errors=None if errors is None else tuple(errors),
                seconds=time.perf_counter() - start,
            )
        )
        self._enter("train")

    def _own_cutoff_loss(self, model: Any, losses: Losses) -> float:
        """Returns the loss at the trial's own cutoff_len, which other tools print.

        Only rows that this cutoff changes are evaluated again.
        """
        rows = [cut(row, self.job.hyperparameters.cutoff_len) for row in self.encoded.eval]
        changed = [i for i, row in enumerate(rows) if row != self.eval_rows[i]]
        sums, tokens = list(losses.sums), list(losses.tokens)
        if changed:
            batch_size = self.job.plan.per_device_eval_batch_size
            note = self.position.note
            again = evaluate(model, [rows[i] for i in changed], batch_size, self.pad_token_id, note)
            for i, loss_sum, count in zip(changed, again.sums, again.tokens, strict=True):
                sums[i], tokens[i] = loss_sum, count
        return Losses(tuple(sums), tuple(tokens)).mean

    def _enter(self, stage: Literal["probe", "train", "eval"]) -> None:
        self.position.stage = stage
        self.send(Stage(stage=stage, steps_total=self.steps_total))

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Adds to the phase's seconds, without the seconds of phases inside it."""
        start, spent = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - spent
            self.seconds[phase] += time.perf_counter() - start - inside

    def _finished(self, outcome: Outcome, message: str, remedy: str = "") -> Finished:
        has_gpu = torch.cuda.is_available()
        return Finished(
            outcome=outcome,
            stage=self.position.stage,
            step=self.position.step,
            steps_total=self.steps_total,
            message=message,
            remedy=remedy,
            batch_shape=self.position.batch_shape,
            allocated_bytes=torch.cuda.max_memory_allocated() if has_gpu else None,
            reserved_bytes=torch.cuda.max_memory_reserved() if has_gpu else None,
            trainable_parameters=self.trainable,
            best_step=self.best_step,
            seconds=dict(self.seconds),
        )


def save_adapter(model: Any, folder: Path) -> None:
    """Saves the adapter as safetensors; a reader sees the old or the new one, never a part."""
    fresh = folder.with_name(folder.name + ".new")
    old = folder.with_name(folder.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    model.save_pretrained(fresh, safe_serialization=True, save_embedding_layers=False)
    if (initial := base_model.initial_adapter(model)) is not None:
        initial.write_plain(fresh)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
