"""How long predictions take: `python -m bench.speed.estimate [--json]`.

Each figure comes from a process of its own, so that no earlier one has filled its caches.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from vram_search.answers.points import ShapeLoader
from vram_search.estimate import Estimate, choose_plan, plans, predict
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.recipes.jsonl_row import parse_point
from vram_search.resources import shipped
from vram_search.spec import Card, Hyperparameters, PlanPins, load_shape
from vram_search.spec.card import load_card

ROWS = Path(__file__).parents[2] / "tests" / "fixtures" / "vram_truth.jsonl"
MODELS = shipped("configs", "models")
MODEL = "qwen2.5-3b"
CARD = "rtx-5060-ti-16gb"
MICRO_BATCHES = (1, 2, 4, 8, 16)
CUTOFF_LENS = range(128, 3328, 128)
"""With the other hyperparameters 1,000 points; with micro-batches and checkpointing 10,000
configurations."""
PASSES = 5
COMMAND_RUNS = 9

ESTIMATE = ("vram_search", "estimate")
COMMANDS: dict[str, tuple[str, ...]] = {
    "--points, 72 rows": ("--points", str(ROWS), "--models", str(MODELS)),
    "--model": ("--model", MODEL, "--card", CARD),
    "demo.yaml": (str(shipped("studies", "demo.yaml")),),
}


@dataclass(frozen=True)
class Timing:
    """`target` is issue 4's, where it names one."""

    name: str
    best: float
    median: float
    unit: str
    target: float | None = None


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed.estimate", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args()
    timings = [
        _alone(warm_allocated),
        _alone(warm_reserved),
        _alone(many_predictions),
        _alone(many_plans_linux),
        _alone(many_plans_windows),
        *(command_time(name) for name in COMMANDS),
    ]
    if options.json:
        print(json.dumps([asdict(timing) for timing in timings]))
        return
    print(f"{'':<44}{'best':>8}{'median':>8}{'target':>8}")
    for t in timings:
        target = "" if t.target is None else f"{t.target:.1f}"
        print(f"{t.name:<44}{t.best:>8.2f}{t.median:>8.2f}{target:>8} {t.unit}")


def _alone(measure: Callable[[], Timing]) -> Timing:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(measure).result()


def warm_allocated() -> Timing:
    return _warm("one prediction, allocated_bytes", lambda estimate: estimate.allocated_bytes)


def warm_reserved() -> Timing:
    return _warm("one prediction, with reserved_bytes", lambda estimate: estimate.reserved_bytes)


def _warm(name: str, answer: Callable[[Estimate], int]) -> Timing:
    """Over the measured rows: each one's fastest of PASSES."""
    load = ShapeLoader(MODELS)
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    workloads = [parse_point(row, load).workload for row in rows]
    passes = [
        [_seconds(partial(_answered, answer, workload)) for workload in workloads]
        for _ in range(PASSES)
    ]
    fastest = [1000 * min(times) for times in zip(*passes, strict=True)]
    return Timing(name, min(fastest), statistics.median(fastest), "ms", target=1.0)


def _answered(answer: Callable[[Estimate], int], workload: Workload) -> int:
    return answer(predict(workload))


def many_predictions() -> Timing:
    """10,000 configurations of one model, each once, as a new process meets them."""
    workloads = list(_configurations())
    seconds = _seconds(lambda: [predict(workload).allocated_bytes for workload in workloads])
    name = f"{len(workloads):,} predictions, allocated_bytes"
    return Timing(name, seconds, seconds, "s", target=2.0)


def many_plans_linux() -> Timing:
    return _many_plans("linux")


def many_plans_windows() -> Timing:
    """Without expandable segments the planner asks for reserved bytes too."""
    return _many_plans("windows")


def _many_plans(platform: str) -> Timing:
    shape = load_shape(MODELS / MODEL)
    card = Card.model_validate({**load_card(CARD), "platform": platform})
    limit = MemoryBudget.of(card, shape)
    points = list(_points())
    count = 0

    def choose() -> None:
        nonlocal count
        for point in points:
            candidates = plans(shape, point, card, PlanPins(), eval_cutoff_len=1024)
            choose_plan(candidates, limit.budget_bytes, limit.margin)
            count += len(candidates)

    seconds = _seconds(choose)
    name = f"{count:,} plans of {len(points):,} points, {platform}"
    return Timing(name, seconds, seconds, "s", target=2.0)


def _points() -> Iterator[Hyperparameters]:
    optimizers = ("adamw_torch_fused", "adamw_8bit")
    targets = ("qv", "qkvo", "qkvo_gu", "all")
    ranks = (4, 8, 16, 32, 64)
    for optim, lora_target, lora_rank, cutoff_len in itertools.product(
        optimizers, targets, ranks, CUTOFF_LENS
    ):
        yield Hyperparameters(
            optim=optim,
            lora_target=lora_target,
            lora_rank=lora_rank,
            lora_alpha=2 * lora_rank,
            cutoff_len=cutoff_len,
            batch_size=max(MICRO_BATCHES),
            learning_rate=1e-4,
        )


def _configurations() -> Iterator[Workload]:
    shape = load_shape(MODELS / MODEL)
    for point, micro_batch, checkpointing in itertools.product(
        _points(), MICRO_BATCHES, (True, False)
    ):
        yield Workload(
            shape=shape,
            lora_modules=tuple(shape.target_modules(point.lora_target)),
            lora_rank=point.lora_rank,
            optimizer=point.optim,
            per_device_train_batch_size=micro_batch,
            cutoff_len=point.cutoff_len,
            gradient_checkpointing=checkpointing,
        )


def command_time(name: str) -> Timing:
    """The whole process, from start to exit."""
    command = [sys.executable, "-m", *ESTIMATE, *COMMANDS[name]]
    times = [
        _seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
        for _ in range(COMMAND_RUNS)
    ]
    return Timing(
        f"estimate {name}", min(times), statistics.median(times), "s, whole command", target=0.4
    )


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
