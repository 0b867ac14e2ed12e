"""Trials whose peak is an evaluation, which the planner avoids: `bench.gpu_trials --evaluation`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.gpu_trials.setup import CUTOFFS, Bench, Save, point, progress, ready_on_gpu
from bench.gpu_trials.table import Table, predicted_parts
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.planner import liger_available, workload_of
from vram_search.protocol import AnyEvent, Probed
from vram_search.spec import Hyperparameters, MemoryPlan
from vram_search.units import MIB, format_bytes
from vram_search.worker.resident import ResidentTrainer

EVAL_TOKENS = (CUTOFFS[-1],) * 12 + (1900, 1300, 700, 300)
"""So many equal rows that the largest batch may be padded or not."""


@dataclass(frozen=True)
class Pinned:
    """A plan that is pinned to small micro-batches and large evaluation batches."""

    eval_batch: int
    checkpointing: bool = True
    cutoff_len: int = CUTOFFS[0]
    target: str = "all"

    def point(self) -> Hyperparameters:
        return point("adamw_8bit", self.target, batch_size=1, cutoff_len=self.cutoff_len)

    def plan(self, enable_liger_kernel: bool) -> MemoryPlan:
        return MemoryPlan(
            per_device_train_batch_size=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing=self.checkpointing,
            enable_liger_kernel=enable_liger_kernel,
            per_device_eval_batch_size=self.eval_batch,
        )


PLAIN = (Pinned(1), Pinned(4), Pinned(8), Pinned(8, checkpointing=False, target="qv"))
FUSED = (Pinned(2), Pinned(8, target="qv"), Pinned(16), Pinned(8, cutoff_len=CUTOFFS[-1]))
"""With Liger, whose training needs no logits: nearly every evaluation is the peak."""


def evaluation_peaks(bench: Bench, deadline: float, save: Save) -> dict[str, Any]:
    """Each plan's peak as predicted and as measured.

    Args:
        deadline: of `time.monotonic`; no trial but each process's first is started after it.
        save: takes what is there after each trial.
    """
    report: dict[str, Any] = {"kind": "evaluation", "card": bench.card, "trials": []}
    has_liger = liger_available(bench.prepared.shape)
    for liger, pinned in [(False, PLAIN), *([(True, FUSED)] if has_liger else [])]:
        trainer = bench.trainer(CUTOFFS, enable_liger_kernel=liger)
        try:
            ready_on_gpu(bench, trainer)
            for pins in pinned:
                number = len(report["trials"])
                report["trials"].append(_peak(bench, trainer, number, pins, liger))
                save(report)
                progress(f"{pins} liger {liger}: {report['trials'][-1]['outcome']}")
                if time.monotonic() > deadline:
                    break
        finally:
            trainer.replace()
    return report


def _peak(
    bench: Bench, trainer: ResidentTrainer, number: int, pins: Pinned, liger: bool
) -> dict[str, Any]:
    hp, plan = pins.point(), pins.plan(liger)
    probed: list[Probed] = []

    def listen(event: AnyEvent) -> None:
        if isinstance(event, Probed):
            probed.append(event)

    finished = trainer.run(bench.trial_job(number, hp, plan, 1), listen, lambda evaluated: False)
    workload = workload_of(bench.prepared.shape, hp, plan, bench.study.eval_cutoff_len)
    estimate = predict(workload, bench.hardware)
    return {
        "outcome": finished.outcome,
        "message": finished.message,
        "plan": f"{pins.target} {pins.cutoff_len}: {plan.label}",
        "eval_batch": pins.eval_batch,
        "moment": estimate.moment,
        "predicted_bytes": estimate.allocated_bytes,
        "predicted_parts": predicted_parts(estimate.parts),
        "measured_bytes": finished.allocated_bytes,
        "probe_bytes": probed[0].allocated_bytes if probed else None,
        "measured_parts": probed[0].parts if probed else {},
        "seconds": finished.seconds,
    }


def evaluation_tables(report: Mapping[str, Any]) -> list[Table]:
    """Predicted beside measured, and the part that is furthest off."""
    rows = []
    for trial in report["trials"]:
        predicted = trial["predicted_bytes"]
        measured = trial["measured_bytes"] if trial["outcome"] == "complete" else None
        probe = trial["probe_bytes"]
        rows.append(
            [
                trial["plan"],
                str(trial["eval_batch"]),
                trial["moment"],
                format_bytes(predicted),
                format_bytes(measured),
                f"{predicted / measured - 1:+.2%}" if measured else trial["outcome"],
                f"{probe / measured:.4f}" if probe and measured else "-",
                furthest_part(trial["predicted_parts"], trial["measured_parts"]),
            ]
        )
    header = [
        "plan",
        "eval batch",
        "moment",
        "predicted",
        "measured",
        "error",
        "probe / run",
        "part, MiB",
    ]
    title = f"Allocated bytes where an evaluation is the peak, {report['card']}."
    return [Table(title, header, rows)]


def furthest_part(predicted: Mapping[str, int], measured: Mapping[str, int]) -> str:
    """The part whose prediction is furthest off, in MiB; nothing where parts were not measured."""
    if not measured:
        return "-"
    names: Sequence[str] = sorted({*predicted, *measured})
    off = {name: predicted.get(name, 0) - measured.get(name, 0) for name in names}
    name = max(names, key=lambda part: abs(off[part]))
    return f"{name} {off[name] / MIB:+.1f}"
