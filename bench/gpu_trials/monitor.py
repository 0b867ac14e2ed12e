"""What the monitor does to the seconds of a step: `bench.gpu_trials --monitor-effect`.

A host drifts more in a minute than the monitor costs, so it is switched on and off within one
training, every few steps, and neighbouring windows are compared.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.gpu_trials.setup import CUTOFFS, Bench, Save, point, progress, ready_on_gpu
from bench.gpu_trials.table import Table
from vram_search.estimate.planner import liger_available
from vram_search.gpu import Monitor
from vram_search.protocol import AnyEvent, Step
from vram_search.spec import MemoryPlan
from vram_search.worker.resident import ResidentTrainer

MONITOR_SECONDS = 60.0
PATTERN = (False, True, True, False)
"""Whether a window is watched: each pair has both, and neither comes first more often."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Load:
    """What a step waits for: its host, where it is short, or the card."""

    name: str
    micro_batch: int
    cutoff_len: int
    window_steps: int
    pairs: int
    """Pairs of windows in a training; its first step warms up and is left out."""

    @property
    def steps(self) -> int:
        return 1 + 2 * self.pairs * self.window_steps

    @property
    def words(self) -> str:
        return f"{self.name}, {self.micro_batch} x {self.cutoff_len}"


TRAIN_TOKENS = (CUTOFFS[-1],) * 208
"""All alike, so that no step has more to do; a training meets none twice."""
LOADS = (Load("host", 1, CUTOFFS[1], 2, 8), Load("card", 8, CUTOFFS[-1], 1, 12))
"""8 x 2,048 tokens through 3B keep an H100 busy for longer than its host needs to launch them."""


class Alternation:
    """Listens to a training and watches every other window of it.

    Args:
        window_steps: of a window.
        start: begins to watch and gives what `stop` is called on.
    """

    def __init__(self, window_steps: int, start: Callable[[], Monitor]) -> None:
        self.window_steps, self.start = window_steps, start
        self.monitor: Monitor | None = None
        self.windows: list[list[float]] = []
        self.rates: list[float] = []

    def listen(self, event: AnyEvent) -> None:
        """After each step: its seconds noted, the monitor switched where a window ends."""
        if not isinstance(event, Step):
            return
        if self.windows:
            self.windows[-1].append(event.seconds)
        if not self.windows or len(self.windows[-1]) == self.window_steps:
            self._switch(PATTERN[len(self.windows) % len(PATTERN)])
            self.windows.append([])

    def _switch(self, on: bool) -> None:
        if on and self.monitor is None:
            self.monitor = self.start()
        elif not on:
            self.stop()

    def stop(self) -> None:
        if self.monitor is not None:
            self.rates.append(self.monitor.stop().achieved_hz)
        self.monitor = None

    def pairs(self) -> list[tuple[float, float]]:
        """Mean seconds of a step without and with the monitor, of windows that are neighbours."""
        means = [statistics.fmean(w) for w in self.windows if len(w) == self.window_steps]
        whole = len(means) // 2 * 2
        return [
            (second, first) if PATTERN[place % len(PATTERN)] else (first, second)
            for place in range(0, whole, 2)
            for first, second in [means[place : place + 2]]
        ]


def monitor_effect(bench: Bench, deadline: float, save: Save) -> dict[str, Any]:
    """Trainings of each load in turn, in one process, whose windows are watched or not.

    Args:
        deadline: of `time.monotonic`; no training but each load's first is started after it.
        save: takes what is there after each training.
    """
    has_liger = liger_available(bench.prepared.shape)
    trainer = bench.trainer(CUTOFFS, enable_liger_kernel=has_liger)
    loads: list[dict[str, Any]] = [
        {"load": load.words, "pairs": [], "samples_per_second": []} for load in LOADS
    ]
    report = {"kind": "monitor_effect", "card": bench.card, "loads": loads}
    try:
        ready_on_gpu(bench, trainer)
        for number, (load, found) in enumerate(itertools.cycle(zip(LOADS, loads, strict=True))):
            if number >= len(LOADS) and time.monotonic() > deadline:
                break
            watched = _train(bench, trainer, number, load, has_liger)
            found["pairs"] += watched.pairs()
            found["samples_per_second"] += watched.rates
            save(report)
            progress(f"{load.words}: {len(found['pairs'])} pairs")
    finally:
        trainer.replace()
    return report


def _train(
    bench: Bench, trainer: ResidentTrainer, number: int, load: Load, has_liger: bool
) -> Alternation:
    hp = point("adamw_8bit", "all", batch_size=load.micro_batch, cutoff_len=load.cutoff_len)
    plan = MemoryPlan(
        per_device_train_batch_size=load.micro_batch,
        gradient_accumulation_steps=1,
        gradient_checkpointing=True,
        enable_liger_kernel=has_liger,
    )

    def start() -> Monitor:
        assert bench.reader is not None and trainer.pid is not None, "there is a GPU and a process"
        monitor = Monitor(bench.reader)
        monitor.start(trainer.pid, bench.budget.baseline_device_bytes)
        return monitor

    watched = Alternation(load.window_steps, start)
    job = bench.trial_job(number, hp, plan, load.steps)
    try:
        finished = trainer.run(job, watched.listen, lambda evaluated: False)
    finally:
        watched.stop()
    assert finished.outcome == "complete", finished.message
    return watched


def effects(pairs: Sequence[Sequence[float]]) -> list[float]:
    """By which share a step takes longer with the monitor, of each pair."""
    return [with_ / without - 1 for without, with_ in pairs]


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """A confidence interval of the median from the order of the values alone (the sign test's);
    None where they are too few for CONFIDENCE."""
    ordered, count = sorted(values), len(values)
    outside, cut = 0.0, 0
    while True:
        outside += 2 * math.comb(count, cut) / 2**count
        if outside > 1 - CONFIDENCE or 2 * (cut + 1) > count:
            break
        cut += 1
    return (ordered[cut - 1], ordered[count - cut]) if cut else None


def monitor_tables(report: Mapping[str, Any]) -> list[Table]:
    """Tables of each load: step time, median effect and its interval."""
    rows, rates = [], [rate for load in report["loads"] for rate in load["samples_per_second"]]
    for load in report["loads"]:
        if not load["pairs"]:
            continue  # the bench was stopped before
        found = effects(load["pairs"])
        interval = median_interval(found)
        rows.append(
            [
                load["load"],
                str(len(found)),
                f"{statistics.median(without for without, _ in load['pairs']):.4f}",
                f"{statistics.median(found):+.2%}",
                "-" if interval is None else f"{interval[0]:+.2%} to {interval[1]:+.2%}",
            ]
        )
    hertz = f"{statistics.fmean(rates):.1f} Hz" if rates else "no"
    title = (
        f"Step time with the monitor at {hertz}, {report['card']}: windows of a training with and "
        "without it, in pairs; medians."
    )
    header = ["waits for", "pairs", "s/step without", "with it", f"{CONFIDENCE:.0%} interval"]
    return [Table(title, header, rows)]
