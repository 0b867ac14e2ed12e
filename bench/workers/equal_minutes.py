"""Searches with `parallel_trials: 1` and `auto` for equal minutes on this card, and compares them.

    python -m bench.workers.equal_minutes --out searches.jsonl --seconds 78 --seeds 0 1 2

Each search is a `vram-search run` with a database of its own; the clock starts with its process, so
imports, loading and the start of further workers count. Both arms have the same seed, space, rows
and minutes, and take turns in who is first. The model has random weights of a real shape: its loss
falls and ranks configurations, though far from that of a trained model. Without a GPU, `auto` runs
one trial at a time: give `--arms 1 2`.

Regret is the best loss of a search minus the best of all searches with its seed (the seed draws
evaluation rows and random weights, too), in nats per token.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.tiny import TINY_CONFIG, TINY_SPACE
from vram_search.resources import shipped
from vram_search.store import TrialRecord, open_store, sqlite_url

ENDED = ("complete", "pruned", "diverged")
"""Outcomes of trials that took time on the card."""
SPACE = {
    "optim": ["adamw_8bit"],
    "lora_target": ["qv", "all"],
    "lora_rank": [8, 16, 32],
    "cutoff_len": [512],
    "batch_size": [4, 8],
    "learning_rate": {"min": 1e-5, "max": 1e-2},
}
GRACE_SECONDS = 60.0
"""After its time, a search that has not ended is stopped."""


@dataclass(frozen=True)
class Found:
    """The figures of one search; seconds count from the start of its process.

    Attributes:
        rate: trials per hour of all its seconds.
        steady_rate: trials per hour while every worker was training; None if too few ended.
        improvements: seconds at which a complete trial became the best, with its loss.
    """

    arm: str
    seed: int
    seconds: float
    workers: int
    outcomes: dict[str, int]
    rate: float
    steady_rate: float | None
    first_end: float | None
    best_loss: float | None
    improvements: list[tuple[float, float]]
    exit_code: int
    last_line: str

    def seconds_to(self, loss: float) -> float | None:
        """Seconds until a complete trial's loss is at most `loss`; None if none is."""
        return next((at for at, found in self.improvements if found <= loss), None)


def study(arm: str, seed: int, shape: str, steps: int) -> dict[str, Any]:
    """Returns the study file of one search; the shape `tiny` stands for a model of 0.1 M."""
    is_tiny = shape == "tiny"
    return {
        "study": "equal-minutes",
        "seed": seed,
        "model": {"weights": "random", "shape": "config.json" if is_tiny else shape},
        "dataset": {
            "train": str(shipped("studies") / "data" / "triz_en.jsonl"),
            "max_samples": 120,
            "val_size": 12,
        },
        "card": "h200-141gb",
        "search_space": TINY_SPACE if is_tiny else SPACE,
        "training": {"max_steps": steps, "rungs": [0.5]},
        "budget": {"hours": 1, "stop_early": False},
        "parallel_trials": arm if arm == "auto" else int(arm),
    }


def search(folder: Path, arm: str, seed: int, shape: str, steps: int, seconds: float) -> Found:
    """Runs one search for so many seconds and returns its figures."""
    folder.mkdir(parents=True)
    if shape == "tiny":
        (folder / "config.json").write_text(json.dumps(TINY_CONFIG))
    file, log = folder / "study.yaml", folder / "run.log"
    file.write_text(yaml.safe_dump(study(arm, seed, shape, steps)))
    url = sqlite_url(folder / "search.db")
    command = [sys.executable, "-m", "vram_search", "run", str(file), "--no-keep-awake"]
    command += ["--hours", f"{seconds / 3600:.6f}", "--database", url]
    environment = {**os.environ, "VRAM_SEARCH_HOME": str(folder / "home"), "VRAM_SEARCH_TRACE": "0"}
    started, began = time.time(), time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            code = process.wait(seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            code = process.wait()
    took = time.monotonic() - began
    lines = log.read_text(errors="replace").strip().splitlines() or [""]
    trials: Sequence[TrialRecord] = ()
    with contextlib.suppress(Exception), contextlib.closing(open_store(url, create=False)) as store:
        trials = store.trials(store.studies()[0].id)
    return figures(trials, started, took, arm=arm, seed=seed, exit_code=code, last_line=lines[-1])


def figures(trials: Iterable[TrialRecord], started: float, took: float, **more: Any) -> Found:
    """Returns the figures of a search's trials.

    Args:
        started: start of the search's process, in seconds since the epoch.
        took: its seconds.
        more: arm, seed, exit code and last line of the search.
    """
    ended = [
        (one.finished_at.timestamp() - started, one)
        for one in trials
        if one.outcome in ENDED and one.finished_at is not None
    ]
    ended.sort(key=lambda end: end[0])
    improvements: list[tuple[float, float]] = []
    for at, one in ended:
        if one.outcome != "complete" or one.eval_loss is None:
            continue
        if not improvements or one.eval_loss < improvements[-1][1]:
            improvements.append((at, one.eval_loss))
    outcomes = [one.outcome or "" for _, one in ended]
    return Found(
        seconds=took,
        workers=len({one.worker_id for _, one in ended}),
        outcomes={name: outcomes.count(name) for name in ENDED if name in outcomes},
        rate=3600 * len(ended) / took,
        steady_rate=_steady_rate(ended),
        first_end=ended[0][0] if ended else None,
        best_loss=improvements[-1][1] if improvements else None,
        improvements=improvements,
        **more,
    )


def _steady_rate(ended: Sequence[tuple[float, TrialRecord]]) -> float | None:
    """Trials per hour between the moment when each worker has ended one and the first last end."""
    own: dict[int | None, list[float]] = {}
    for at, one in ended:
        own.setdefault(one.worker_id, []).append(at)
    if not own or any(len(ends) < 2 for ends in own.values()):
        return None
    start, stop = max(min(ends) for ends in own.values()), min(max(ends) for ends in own.values())
    inside = [at for at, _ in ended if start < at <= stop]
    return 3600 * len(inside) / (stop - start) if inside else None


def tables(found: Sequence[Found]) -> list[str]:
    """Returns the lines of the comparison in Markdown."""
    best: dict[int, float] = {}
    for one in found:
        if one.best_loss is not None:
            best[one.seed] = min(one.best_loss, best.get(one.seed, one.best_loss))
    lines = [
        "| seed | parallel_trials | workers | outcomes | trials/h, all seconds | trials/h, steady "
        "| first trial's end | best loss | regret |",
        "| --: | --- | --: | --- | --: | --: | --: | --: | --: |",
    ]
    for one in found:
        outcomes = ", ".join(f"{count} {name}" for name, count in one.outcomes.items())
        regret = None if one.best_loss is None else one.best_loss - best[one.seed]
        lines.append(
            f"| {one.seed} | {one.arm} | {one.workers} | {outcomes} | {one.rate:.0f} "
            f"| {_shown(one.steady_rate, 0)} | {_shown(one.first_end, 1)} s "
            f"| {_shown(one.best_loss, 4)} | {_shown(regret, 4)} |"
        )
    arms = list(dict.fromkeys(one.arm for one in found))
    lines += ["", *(_pair(found, arms[0], other) for other in arms[1:])]
    return lines


def _pair(found: Sequence[Found], first: str, other: str) -> str:
    """One sentence about two arms: ratios of rates, and of seconds to a loss that both reached."""
    rates, steady, times, regrets = [], [], [], []
    for one in (one for one in found if one.arm == first):
        beside = next((two for two in found if (two.arm, two.seed) == (other, one.seed)), None)
        if beside is None or one.best_loss is None or beside.best_loss is None:
            continue
        rates.append(beside.rate / one.rate)
        if one.steady_rate and beside.steady_rate:
            steady.append(beside.steady_rate / one.steady_rate)
        loss = max(one.best_loss, beside.best_loss)
        alone, together = one.seconds_to(loss), beside.seconds_to(loss)
        assert alone is not None and together is not None, "both searches reach the larger loss"
        times.append(alone / together)
        regrets.append(one.best_loss - beside.best_loss)
    if not rates:
        return f"{other} against {first}: no seed has both"
    return (
        f"{other} against {first}, {len(rates)} seeds, geometric means: trials per hour of all "
        f"seconds x {statistics.geometric_mean(rates):.2f}, steady x "
        f"{_shown(statistics.geometric_mean(steady) if steady else None, 2)}, seconds to the same "
        f"loss / {statistics.geometric_mean(times):.2f}; best loss lower by "
        f"{statistics.fmean(regrets):.4f} on average ({sum(one > 0 for one in regrets)} of "
        f"{len(regrets)} seeds better)"
    )


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.workers.equal_minutes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, appended to")
    parser.add_argument("--seconds", type=float, default=78.0, help="of each search")
    parser.add_argument(
        "--minutes", type=float, default=8.5, help="no search begins that ends later"
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=["1", "auto"])
    parser.add_argument("--shape", default="qwen2.5-0.5b", help="a shipped shape, or tiny")
    parser.add_argument("--steps", type=int, default=8, help="of each trial")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    found: list[Found] = []
    with tempfile.TemporaryDirectory(prefix="vram-search-minutes-") as name:
        for place, seed in enumerate(options.seeds):
            for arm in options.arms if place % 2 == 0 else reversed(options.arms):
                if time.monotonic() + options.seconds > deadline:
                    print(f"seed {seed}, {arm}: no time left", flush=True)
                    continue
                folder = Path(name) / f"{seed}-{arm}"
                one = search(folder, arm, seed, options.shape, options.steps, options.seconds)
                found.append(one)
                with options.out.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(asdict(one)) + "\n")
                print(f"seed {seed}, {arm}: {one.outcomes}, {one.last_line}", flush=True)
                if one.exit_code:
                    print((folder / "run.log").read_text(errors="replace")[-3000:], flush=True)
    print("\n".join(tables(found)))


if __name__ == "__main__":
    main()
