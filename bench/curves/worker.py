"""A process that keeps the base model on the card and trains one adapter after another.

Standard input: a line with the tasks' load jobs, then a line per run. Standard output: a line when
the base is loaded, then a line with what was measured per run. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PrinterCallback

from bench.curves.runs import eval_points
from vram_search.data import load_rows
from vram_search.protocol import LoadJob, Step, TrialJob, finite
from vram_search.spec.steps import count_steps
from vram_search.train import model as base_model
from vram_search.train.device import compute_dtype, device_name, dtype_name
from vram_search.train.evaluate import Losses, evaluate
from vram_search.train.examples import EncodedExample, TokenRow, cut, encode
from vram_search.train.faults import DivergedError
from vram_search.train.tokenizer import load_tokenizer
from vram_search.train.trainer import AtStep, StepGuard, make_trainer

WARM_UP_STEPS = 2
"""The first steps of a process load kernels and create handles."""


@dataclass(frozen=True)
class Rows:
    """A task's rows; evaluation rows are cut once, since they are the same for every run."""

    train: list[EncodedExample]
    eval: list[TokenRow]
    pad_token_id: int


@dataclass
class Curve:
    """One training on the base model, evaluated on its way.

    Peak bytes are those of training: an evaluation's batch is the bench's choice.
    """

    model: Any
    job: TrialJob
    rows: Rows
    losses: dict[int, Losses] = field(default_factory=dict)
    step_seconds: list[float] = field(default_factory=list)
    eval_seconds: float = 0.0
    max_allocated_bytes: int | None = None

    def run(self) -> dict[str, Any]:
        """Trains to the end, or until it diverges; what was measured, named as in a row."""
        train_rows = [cut(row, self.job.hyperparameters.cutoff_len) for row in self.rows.train]
        steps = count_steps(self.job.training, self.job.plan, len(train_rows))
        points = eval_points(steps)
        reset_peak()
        self.evaluate(0)
        trainer = make_trainer(
            self.model,
            self.job,
            self.job.plan,
            train_rows,
            steps=steps,
            horizon=steps,
            pad_token_id=self.rows.pad_token_id,
            callbacks=[StepGuard(self.note), AtStep(points[1:], self.evaluate)],
        )
        trainer.remove_callback(PrinterCallback)
        began, before = time.perf_counter(), self.eval_seconds
        try:
            trainer.train()
        except DivergedError:
            self.note_peak()
        train_seconds = time.perf_counter() - began - (self.eval_seconds - before)
        return {"eval_steps": points, **self.measured(points), "train_seconds": train_seconds}

    def note(self, step: Step) -> None:
        self.step_seconds.append(step.seconds)

    def evaluate(self, step: int) -> bool:
        """Never ends the training."""
        self.note_peak()
        began = time.perf_counter()
        batch_size = self.job.plan.per_device_eval_batch_size
        self.losses[step] = evaluate(self.model, self.rows.eval, batch_size, self.rows.pad_token_id)
        self.eval_seconds += time.perf_counter() - began
        reset_peak()
        return False

    def note_peak(self) -> None:
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
            self.max_allocated_bytes = max(self.max_allocated_bytes or 0, peak)

    def measured(self, points: Sequence[int]) -> dict[str, Any]:
        means = [finite(self.losses[s].mean) if s in self.losses else None for s in points]
        found: dict[str, Any] = {
            "eval_loss": [None if mean is None else round(mean, 6) for mean in means],
            "eval_seconds": self.eval_seconds,
            "max_allocated_bytes": self.max_allocated_bytes,
            "step_seconds": statistics.median(self.step_seconds) if self.step_seconds else None,
        }
        found["curve_example_loss_sums"] = [
            [round(loss_sum, 3) for loss_sum in self.losses[s].sums] if mean is not None else None
            for s, mean in zip(points, means, strict=True)
        ]
        if means[-1] is not None:
            sums = self.losses[points[-1]].sums
            found["example_loss_sums"] = [round(loss_sum, 4) for loss_sum in sums]
        return found


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def measure(base: Any, job: TrialJob, rows: Rows) -> dict[str, Any]:
    """A run from a bare base model to a bare base model."""
    began = time.perf_counter()
    model = base_model.attach_adapter(base, job)
    try:
        found = Curve(model, job, rows).run()
    finally:
        base_model.detach_adapter(model)
    del model
    base_model.free_caches()
    elapsed = time.perf_counter() - began
    found["setup_seconds"] = elapsed - found["train_seconds"] - found["eval_seconds"]
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in found.items()
    }


def load_task(job: LoadJob) -> Rows:
    tokenizer, rows = load_tokenizer(job.tokenizer), load_rows(job.dataset, job.seed)
    eval_rows = [cut(encode(row, tokenizer), job.eval_cutoff_len) for row in rows.eval]
    return Rows([encode(row, tokenizer) for row in rows.train], eval_rows, tokenizer.pad_token_id)


def main() -> None:
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print breaks no line
    torch.set_num_threads(1)
    jobs = {task: LoadJob(**job) for task, job in json.loads(sys.stdin.readline()).items()}
    tasks = {task: load_task(job) for task, job in jobs.items()}
    base = base_model.load_base(next(iter(jobs.values())))
    ready = {
        "device": device_name(),
        **base_model.versions(),
        "compute_dtype": dtype_name(compute_dtype()),
    }
    print(json.dumps(ready), file=out, flush=True)
    is_warm = False
    for line in sys.stdin:
        message = json.loads(line)
        job, rows = TrialJob(**message["job"]), tasks[message["task"]]
        if not is_warm:
            training = job.training.model_copy(update={"max_steps": WARM_UP_STEPS})
            measure(base, job.model_copy(update={"training": training}), rows)
            is_warm = True
        print(json.dumps(measure(base, job, rows)), file=out, flush=True)


if __name__ == "__main__":
    main()
