"""Whether trials leave anything behind in their process: `bench.gpu_trials --leak`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gpu_trials.setup import CUTOFFS, Bench, Save, point, progress, ready_on_gpu
from bench.gpu_trials.table import Table
from vram_search.protocol import TrialJob
from vram_search.spec import MemoryPlan
from vram_search.units import KIB, MIB
from vram_search.worker.resident import ResidentTrainer

LAYERS = 2
"""Layers of the base model, so that 100 trials take minutes. A leak does not depend on their
number: it is a model's embedding or an adapter's tensors."""
STEPS = 2
OPTIMIZERS = ("adamw_torch_fused", "adamw_8bit", "lion_8bit")
"""Not the paged ones, whose process is replaced after every trial."""
PLANS = ((2, 1, True), (1, 2, False), (2, 1, False), (1, 2, True))
"""(micro-batch, accumulation, checkpointing)."""
WARM_TRIALS = 12
"""One of each optimizer and plan: what libraries set up once is there after them."""


def leak_check(bench: Bench, trials: int, deadline: float, save: Save) -> dict[str, Any]:
    """Short trials in one process, optimizers and plans in turn: what each leaves behind.

    Args:
        deadline: of `time.monotonic`; no trial but the first is started after it.
        save: takes what is there after each trial.
    """
    trainer = bench.trainer(CUTOFFS)
    report: dict[str, Any] = {"kind": "leak", "card": bench.card, "planned": trials, "after": []}
    try:
        ready_on_gpu(bench, trainer)
        report["allocated_bytes"] = trainer.ready().allocated_bytes
        for number, (optim, target, plan) in enumerate(leak_plans(trials)):
            hp = point(optim, target, batch_size=plan.batch_size, cutoff_len=CUTOFFS[0])
            job = bench.trial_job(number, hp, plan, STEPS)
            report["after"].append(_leftovers(bench, trainer, job))
            report["processes"] = trainer.starts
            save(report)
            if number % 10 == 9:
                progress(f"{number + 1}/{trials} {report['after'][-1]['outcome']}")
            if time.monotonic() > deadline:
                break
    finally:
        trainer.replace()
    return report


def _leftovers(bench: Bench, trainer: ResidentTrainer, job: TrialJob) -> dict[str, Any]:
    finished = trainer.run(job, lambda event: None, lambda evaluated: False)
    sample = bench.reader.sample(trainer.pid) if bench.reader else None
    return {
        "outcome": finished.outcome,
        "leaked_bytes": finished.leaked_bytes,
        "process_bytes": sample.process_bytes if sample else None,
        "device_bytes": sample.device_bytes if sample else None,
        "host_bytes": host_bytes(trainer.pid),
        "base_intact": finished.base_intact,
    }


def leak_plans(trials: int) -> list[tuple[str, str, MemoryPlan]]:
    """(optimizer, LoRA target, plan) of each trial."""
    plans = [
        MemoryPlan(
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
            gradient_checkpointing=checkpointing,
        )
        for micro_batch, accumulation, checkpointing in PLANS
    ]
    every = itertools.product(OPTIMIZERS, zip(("qv", "all", "qv", "all"), plans, strict=True))
    turns = itertools.islice(itertools.cycle(every), trials)
    return [(optim, target, plan) for optim, (target, plan) in turns]


def leak_tables(report: Mapping[str, Any]) -> list[Table]:
    """Bytes after the first WARM_TRIALS trials and after the last."""
    after: Sequence[Mapping[str, Any]] = report["after"]
    warm = after[: min(WARM_TRIALS, len(after))]
    base = report["allocated_bytes"]
    leaked = [trial["leaked_bytes"] for trial in after]

    def mib(count: float | None) -> str:
        return "-" if count is None else f"{count / MIB:.1f}"

    def row(name: str, first: float | None, last: float | None) -> list[str]:
        growth = None if first is None or last is None else last - first
        return [name, mib(first), mib(last), mib(growth)]

    def allocated(trials: Sequence[Mapping[str, Any]]) -> float | None:
        return None if base is None else base + sum(trial["leaked_bytes"] for trial in trials)

    rows = [row("allocated", allocated(warm), allocated(after))]
    rows += [
        row(name, warm[-1].get(key), after[-1].get(key))
        for name, key in (
            ("process", "process_bytes"),
            ("device", "device_bytes"),
            ("host RSS", "host_bytes"),
        )
    ]
    complete = sum(trial["outcome"] == "complete" for trial in after)
    changed = sum(not trial["base_intact"] for trial in after)
    title = (
        f"{len(after)} of {report['planned']} trials, {complete} complete, processes: "
        f"{report['processes']}, {report['card']}; {mib(base)} MiB allocated before the first, "
        f"largest leak of one trial {max(leaked) / MIB:.1f} MiB, base changed in {changed}."
    )
    return [Table(title, ["MiB", f"after {len(warm)}", f"after {len(after)}", "growth"], rows)]


def host_bytes(pid: int | None) -> int | None:
    """Resident set of a process; None where there is no /proc, or the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(sizes[0]) * KIB if sizes else None
