"""What an out-of-memory costs: `bench.gpu_trials --oom`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

from bench.gpu_trials.setup import CUTOFFS, Bench, Save, point, progress, ready_on_gpu
from bench.gpu_trials.table import Table
from vram_search.protocol import AnyEvent, Finished
from vram_search.spec import MemoryPlan
from vram_search.units import format_bytes
from vram_search.worker.resident import ResidentTrainer
from vram_search.worker.result import load_seconds

BATCH_SIZE = 16
"""At the largest cutoff the logits alone take 60 GiB."""
PHASES = ("own", "imports", "load")


def oom_cost(bench: Bench, times: int, deadline: float, save: Save) -> dict[str, Any]:
    """Trials that do not fit, one after another: each one's own seconds until it has said so, then
    those of the process that replaces its own, imports apart from loading.

    Args:
        deadline: of `time.monotonic`; no trial but the first is started after it.
        save: takes what is there after each trial.
    """
    trainer = bench.trainer(CUTOFFS)
    report: dict[str, Any] = {"kind": "oom", "card": bench.card, "trials": []}
    try:
        ready_on_gpu(bench, trainer)
        for number in range(times):
            report["trials"].append(_run_out(bench, trainer, number))
            save(report)
            progress(f"{number + 1}/{times} {report['trials'][-1]}")
            if time.monotonic() > deadline:
                break
    finally:
        trainer.replace()
    return report


def _run_out(bench: Bench, trainer: ResidentTrainer, number: int) -> dict[str, Any]:
    hp = point("adamw_8bit", "all", batch_size=BATCH_SIZE, cutoff_len=CUTOFFS[-1])
    plan = MemoryPlan(
        per_device_train_batch_size=BATCH_SIZE,
        gradient_accumulation_steps=1,
        gradient_checkpointing=True,
    )
    ended: list[float] = []

    def listen(event: AnyEvent) -> None:
        if isinstance(event, Finished):
            ended.append(time.monotonic())

    began = time.monotonic()
    finished = trainer.run(bench.trial_job(number, hp, plan, 1), listen, lambda evaluated: False)
    ready = trainer.ready()
    waited = time.monotonic() - ended[0]
    return {
        "outcome": finished.outcome,
        "stage": finished.stage,
        "step": finished.step,
        "batch_shape": finished.batch_shape,
        "requested_bytes": finished.requested_bytes,
        "held_bytes": sum(finished.parts.values()),
        "seconds": {"own": ended[0] - began, "imports": 0.0, **load_seconds(ready, waited)},
    }


def oom_tables(report: Mapping[str, Any]) -> list[Table]:
    """A row a trial; while a process imports it holds nothing on the card."""
    rows = []
    for trial in report["trials"]:
        own, imports, load = (trial["seconds"][phase] for phase in PHASES)
        shape = " x ".join(map(str, trial["batch_shape"] or ()))
        rows.append(
            [
                f"{trial['outcome']}, {trial['stage']} step {trial['step']}, {shape}",
                f"{format_bytes(trial['requested_bytes'])} at {format_bytes(trial['held_bytes'])}",
                *(f"{seconds:.1f}" for seconds in (own, imports, load, own + load)),
            ]
        )
    on_card = [t["seconds"]["own"] + t["seconds"]["load"] for t in report["trials"]]
    title = (
        f"Seconds of an out-of-memory, {report['card']}: its own, the new process's imports and "
        f"loading; median on the card {statistics.median(on_card):.1f} s."
    )
    return [Table(title, ["", "requested", "own", "imports", "load", "on the card"], rows)]
