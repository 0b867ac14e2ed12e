"""Random trials of the TD-010 space on an emulated 16 GB card, planner on and off. Needs a GPU.

    python -m bench.gpu_trials [--trials 40] [--off-trials 10] [--seconds S] [--out FILE.json]
    python -m bench.gpu_trials --monitor-effect [--seconds S]
    python -m bench.gpu_trials --leak [100] [--seconds S]
    python -m bench.gpu_trials --evaluation [--seconds S]
    python -m bench.gpu_trials --oom [3] [--seconds S]
    python -m bench.gpu_trials --from FILE.json [--markdown]

The base has random weights of Qwen2.5-3B's shape: the bytes of the real ones. For `--leak` it has
two layers of 0.5B's.
A trial is a few optimizer steps on rows that reach its cutoff. Planner on is the search itself with
the points enqueued. Planner off trains the first of them as people write a QLoRA run by hand: the
batch is the micro-batch, with gradient checkpointing and no fused loss, whatever that needs. It
comes first, and its first two trials have a process of their own each.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu_trials.evaluation import EVAL_TOKENS, evaluation_peaks, evaluation_tables
from bench.gpu_trials.leak import LAYERS, leak_check, leak_tables
from bench.gpu_trials.monitor import MONITOR_SECONDS, TRAIN_TOKENS, monitor_effect, monitor_tables
from bench.gpu_trials.oom import oom_cost, oom_tables
from bench.gpu_trials.runs import random_points, run_with_planner, run_without_planner
from bench.gpu_trials.setup import STEPS, Bench, Save, open_bench, progress, write_report
from bench.gpu_trials.table import Table, TrialFigures, trial_tables
from vram_search.errors import InputError, VramSearchError
from vram_search.units import format_bytes

MODEL = "Qwen/Qwen2.5-3B-Instruct"
SMALL_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
OFF_SHARE = 0.4
"""Share of `--seconds` for the trials without planner."""
TABLES: dict[str, Callable[[Mapping[str, Any]], list[Table]]] = {
    "trials": trial_tables,
    "monitor_effect": monitor_tables,
    "leak": leak_tables,
    "evaluation": evaluation_tables,
    "oom": oom_tables,
}
"""By `kind` of a report."""


def planner_report(bench: Bench, arguments: argparse.Namespace, save: Save) -> dict[str, Any]:
    """Both runs, for `tables` and for JSON. No trial is started after `--seconds`."""
    points = random_points(bench.study.search_space, arguments.trials, arguments.seed)
    by_hand = points[: arguments.off_trials]
    began, seconds = time.monotonic(), arguments.seconds or math.inf
    report: dict[str, Any] = {
        "kind": "trials",
        "planned": {"on": len(points), "off": len(by_hand)},
        "on": [],
        "off": [],
    }

    def keep(side: str, trial: TrialFigures) -> None:
        report[side].append(asdict(trial))
        report["title"] = (
            f"Random points of TD-010's space, {bench.study.base.label}, {bench.card}: "
            f"{format_bytes(bench.budget.first_bytes)} for training; {STEPS} steps a trial, "
            f"seed {arguments.seed}, {time.monotonic() - began:.0f} s in all."
        )
        save(report)

    run_without_planner(bench, by_hand, began + seconds * OFF_SHARE, partial(keep, "off"))
    run_with_planner(bench, points, began + seconds, partial(keep, "on"))
    return report


def measure(arguments: argparse.Namespace, save: Save) -> dict[str, Any]:
    """What the arguments ask for, as JSON has it.

    Args:
        save: takes what is there after each trial.

    Raises:
        InputError: there is no GPU.
    """
    seed = arguments.seed
    seconds = arguments.seconds or (MONITOR_SECONDS if arguments.monitor_effect else math.inf)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder, deadline = Path(name), time.monotonic() + seconds
        if arguments.leak:
            bench = open_bench(folder, SMALL_MODEL, seed, layers=LAYERS)
            return leak_check(bench, arguments.leak, deadline, save)
        if arguments.monitor_effect:
            bench = open_bench(folder, MODEL, seed, train_tokens=TRAIN_TOKENS)
            return monitor_effect(
                bench, time.monotonic() + (arguments.seconds or MONITOR_SECONDS), save
            )
        if arguments.evaluation:
            bench = open_bench(folder, MODEL, seed, eval_tokens=EVAL_TOKENS)
            return evaluation_peaks(bench, deadline, save)
        bench = open_bench(folder, MODEL, seed)
        if arguments.oom:
            return oom_cost(bench, arguments.oom, deadline, save)
        return planner_report(bench, arguments, save)


def read_report(file: Path) -> dict[str, Any]:
    """What an earlier `--out` wrote.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    remedy = "--from takes what --out wrote"
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})", remedy) from None
    if not isinstance(report, dict) or report.get("kind") not in TABLES:
        raise InputError(f"{file}: no report of this bench", remedy)
    return report


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=at_least_one, default=40, help="points, planner on")
    parser.add_argument("--off-trials", type=int, default=10, help="of them, planner off")
    parser.add_argument("--seconds", type=float, help="start no trial after so many seconds")
    parser.add_argument("--seed", type=int, default=11, help="of points, rows and adapters")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--monitor-effect", action="store_true", help="on the seconds of a step")
    mode.add_argument(
        "--leak", type=at_least_one, nargs="?", const=100, help="so many trials in one process"
    )
    mode.add_argument("--evaluation", action="store_true", help="trials with its peak")
    mode.add_argument(
        "--oom", type=at_least_one, nargs="?", const=3, help="so many trials that do not fit"
    )
    mode.add_argument("--from", dest="earlier", type=Path, help="JSON of an earlier run")
    parser.add_argument("--out", type=Path, help="JSON, written anew after each trial")
    parser.add_argument("--markdown", action="store_true", help="tables for docs/experiments.md")
    return parser.parse_args()


def at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def main() -> None:
    """Prints tables. Exit code 2 without a GPU."""
    arguments = parse_arguments()

    def save(report: Mapping[str, Any]) -> None:
        if arguments.out is not None:
            write_report(arguments.out, report)

    try:
        report = read_report(arguments.earlier) if arguments.earlier else measure(arguments, save)
    except VramSearchError as error:
        progress(f"error: {error.message}\nremedy: {error.remedy}")
        sys.exit(error.exit_code)
    save(report)
    tables = TABLES[report["kind"]](report)
    texts = [table.as_markdown() if arguments.markdown else table.as_text() for table in tables]
    print("\n\n".join(texts))


if __name__ == "__main__":
    main()
