"""A training process that trains nothing, for tests whose subject is the search around it.

    python -P tests/fake_trainer.py run study.yaml ...    the command line, with this process
    python -P tests/fake_trainer.py                       the process itself

tests/fake_process.py runs it in a thread, which saves a test the imports of a process.

The real process is the same but for `serve`: it reads jobs from the same channel, ignores Ctrl-C,
ends with its supervisor and reports what ends it. It loads nothing (a real one needs three seconds
of CPU time for its imports), and its losses are a formula of the hyperparameters.

The environment variable HELD_TRIALS ("0,1") names trials that never get past their probe, so that a
test can end the process or its supervisor in the middle of one. STAGE_SECONDS is the time that a
trial really spends in its probe and in its training, for a monitor that samples it.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import time
from pathlib import Path
from typing import Literal

from vram_search.data import Example, load_rows
from vram_search.protocol import (
    BaseEvaluated,
    EvaluateBaseJob,
    Evaluated,
    Finished,
    Generated,
    GenerateJob,
    LoadJob,
    Probed,
    PruneDecision,
    Ready,
    Stage,
    Step,
    TrialJob,
)
from vram_search.train import __main__ as training
from vram_search.train.channel import Channel

COMMAND = (sys.executable, "-P", __file__)
UNTUNED_LOSS = 4.0
SEED_EFFECT = 0.001
SECONDS = 0.01
"""Reported for everything that takes a real training time."""


def serve(channel: Channel) -> None:
    """The counterpart of `vram_search.train.__main__.serve`."""
    job = channel.receive()
    assert isinstance(job, LoadJob), "the first job loads the model"
    rows = load_rows(job.dataset, job.seed, all_rows=job.all_rows)
    lengths = [tokens(row) for row in rows.train]
    channel.send(
        Ready(
            device="CPU",
            has_gpu=False,
            versions={"fake_trainer": "1", "compute_dtype": "float32"},
            train_rows=len(rows.train),
            eval_rows=len(rows.eval),
            longest_tokens=max(lengths),
            longest_eval_tokens=max(map(tokens, rows.eval)),
            rows_cut=sum(length > max(job.cutoff_lens) for length in lengths),
            data_hash=rows.data_hash,
            allocated_bytes=None,
            seconds=2 * SECONDS,
            import_seconds=SECONDS,
        )
    )
    while True:
        trial = channel.receive()
        if isinstance(trial, EvaluateBaseJob):
            channel.send(untuned(len(rows.eval)))
            continue
        if isinstance(trial, GenerateJob):
            who = "tuned" if trial.adapter_folder else "untuned"
            answers = tuple(f"{who} answer to {turns[-1][1]}" for turns in trial.conversations)
            channel.send(Generated(answers=answers))
            continue
        assert isinstance(trial, TrialJob), "after loading come trials"
        train(channel, trial, len(rows.train), len(rows.eval))


def untuned(eval_rows: int) -> BaseEvaluated:
    return BaseEvaluated(
        eval_loss=UNTUNED_LOSS,
        bits_per_byte=UNTUNED_LOSS,
        example_loss_sums=(10 * UNTUNED_LOSS,) * eval_rows,
        seconds=SECONDS,
    )


def tokens(row: Example) -> int:
    """A character is a token, those of the role too."""
    return sum(len(role) + len(text) for role, text in row.messages)


def train(channel: Channel, job: TrialJob, train_rows: int, eval_rows: int) -> None:
    """The events of a trial that learns."""
    steps_total = count_steps(job, train_rows)
    enter(channel, "probe", steps_total)
    channel.send(Probed(allocated_bytes=None, reserved_bytes=None, seconds=SECONDS))
    enter(channel, "train", steps_total)
    if str(job.number) in os.environ.get("HELD_TRIALS", "").split(","):
        channel.receive()  # nothing is sent: this ends with the process
    rungs = {round(rung * steps_total) for rung in job.training.rungs} - {0, steps_total}
    for step in range(1, steps_total + 1):
        rate, train_loss = job.hyperparameters.learning_rate, loss_after(job, step)
        channel.send(
            Step(step=step, loss=train_loss, learning_rate=rate, grad_norm=1, seconds=SECONDS)
        )
        if step in rungs:
            evaluate(channel, job, step, steps_total, eval_rows)
            verdict = channel.receive()
            assert isinstance(verdict, PruneDecision), "a rung is answered with a verdict"
            if verdict.prune:
                channel.send(finished("pruned", step, steps_total))
                return
    evaluate(channel, job, steps_total, steps_total, eval_rows)
    save_adapter(Path(job.adapter_folder))
    channel.send(finished("complete", steps_total, steps_total))


def enter(channel: Channel, stage: Literal["probe", "train"], steps_total: int) -> None:
    channel.send(Stage(stage=stage, steps_total=steps_total))
    time.sleep(float(os.environ.get("STAGE_SECONDS", "0")))


def count_steps(job: TrialJob, rows: int) -> int:
    if job.training.max_steps is not None:
        return job.training.max_steps
    return math.ceil(job.training.epochs * rows / job.hyperparameters.batch_size)


def loss_after(job: TrialJob, step: int) -> float:
    """Falls with every step, faster at a learning rate of 1e-3 than at others; 42 is the seed of
    the tests' studies."""
    distance = abs(math.log10(job.hyperparameters.learning_rate) + 3)
    return 2 + distance / 10 + 1 / (1 + step) + (job.seed % 42) * SEED_EFFECT


def evaluate(channel: Channel, job: TrialJob, step: int, steps_total: int, eval_rows: int) -> None:
    loss, is_rung = loss_after(job, step), step < steps_total
    channel.send(
        Evaluated(
            step=step,
            fraction=step / steps_total,
            is_rung=is_rung,
            eval_loss=loss,
            own_cutoff_eval_loss=None if is_rung else loss,
            bits_per_byte=loss,
            example_loss_sums=(10 * loss,) * eval_rows,
            seconds=SECONDS,
        )
    )


def save_adapter(folder: Path) -> None:
    """Saves an adapter of one number, in peft's files."""
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensor = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    header = json.dumps({"base_model.model.q_proj.lora_A.weight": tensor}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(4)
    (folder / "adapter_model.safetensors").write_bytes(weights)


def finished(outcome: str, step: int, steps_total: int) -> Finished:
    figures = {"stage": "train", "step": step, "steps_total": steps_total, "best_step": step}
    seconds = dict.fromkeys(("probe", "train", "eval", "save"), SECONDS)
    return Finished.model_validate({"outcome": outcome, "seconds": seconds, **figures})


def main() -> None:
    if sys.argv[1:]:
        from vram_search.__main__ import main as command_line
        from vram_search.web import scheduler
        from vram_search.worker import companions, process

        process.COMMAND = COMMAND
        companions.COMMAND = COMMAND
        scheduler.COMMAND = COMMAND
        command_line()
    else:
        training.serve = serve
        training.main()


if __name__ == "__main__":
    main()
