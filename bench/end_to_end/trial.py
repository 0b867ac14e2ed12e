"""One trial as people run it today: a fresh process that loads the base, trains once and ends.

Standard input: {"load": LoadJob, "trial": TrialJob}. Standard output: one line, the outcome and the
loss of the best evaluated checkpoint. The model is evaluated where the product evaluates it, at the
study's rungs and at the end, so that both choose among equally many checkpoints.

Some of it is better than people's own scripts: the Trainer is the product's, evaluation batches are
large, and no adapter is saved.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from bench.curves.worker import Curve, load_task
from vram_search.protocol import LoadJob, TrialJob
from vram_search.spec.steps import count_steps
from vram_search.train import model as base_model
from vram_search.train.examples import cut
from vram_search.train.faults import DivergedError, is_out_of_memory
from vram_search.train.trainer import AtStep, StepGuard, make_trainer, rung_steps


def main() -> None:
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print breaks no line
    message = json.load(sys.stdin)
    answer = run(LoadJob(**message["load"]), TrialJob(**message["trial"]))
    print(json.dumps(answer), file=out, flush=True)


def run(load: LoadJob, job: TrialJob) -> dict[str, Any]:
    """Outcome and loss; what is nobody's fault but the script's goes through."""
    loss = None
    try:
        base_model.limit_allocator(load.cap_bytes)
        loss = train(load, job)
        outcome = "diverged" if loss is None else "complete"
    except DivergedError:
        outcome = "diverged"
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        outcome = "oom"
    return {"outcome": outcome, "eval_loss": loss}


def train(load: LoadJob, job: TrialJob) -> float | None:
    """Loss of the best evaluated checkpoint, nats per answer token; None where none is finite.

    Raises:
        DivergedError: a step's loss or gradient is not finite.
    """
    rows = load_task(load)
    model = base_model.attach_adapter(base_model.load_base(load), job)
    curve = Curve(model, job, rows)
    train_rows = [cut(row, job.hyperparameters.cutoff_len) for row in rows.train]
    steps = count_steps(job.training, job.plan, len(train_rows))
    points = (*rung_steps(job.training.rungs, steps), steps)
    make_trainer(
        model,
        job,
        job.plan,
        train_rows,
        steps=steps,
        horizon=steps,
        pad_token_id=rows.pad_token_id,
        callbacks=[StepGuard(curve.note), AtStep(points, curve.evaluate)],
    ).train()
    losses = curve.measured(points)["eval_loss"]
    return min((loss for loss in losses if loss is not None), default=None)


if __name__ == "__main__":
    main()
