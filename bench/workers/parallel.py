"""Measures trials per hour of one, two and four trials at once on this card.

    python -m bench.workers.parallel --out parallel.jsonl --minutes 7.5

Each case is a search of its own with random weights, as `vram-search run` does it. The rate counts
the ends of trials from the moment when every worker has ended one until the first worker stops.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vram_search.spec import load_study
from vram_search.store import TrialRecord, open_store, sqlite_url
from vram_search.worker.parallel import parallel_trials
from vram_search.worker.prepare import prepare
from vram_search.worker.run import run_study
from vram_search.worker.stop_rule import StopRule

CASES = (("qwen2.5-0.5b", 4), ("qwen2.5-3b", 2))
"""Shapes and their micro-batches, of 512 tokens."""
COUNTS = (1, 2, 4)
CUTOFF_LEN, STEPS = 512, 16
SECONDS = {1: 55.0, 2: 75.0, 4: 90.0}
"""Of each search, loading included."""


class Quiet:
    """Notes what the run says and shows nothing else."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def run_started(self, finished: int, best: object) -> None: ...
    def untuned_evaluated(self, eval_loss: float | None) -> None: ...
    def trial_started(self, proposal: object, planned: object) -> None: ...
    def trial_event(self, event: object, sample: object) -> None: ...
    def others_running(self, trials: object) -> None: ...
    def trial_ended(self, record: object) -> None: ...


def write_study(folder: Path, shape: str, micro_batch: int, count: int | str, card: str) -> Path:
    """Writes a search whose trials differ in their learning rate alone."""
    folder.mkdir(parents=True)
    row = {"instruction": "word " * 100, "output": "answer " * 60}
    (folder / "rows.jsonl").write_text("\n".join([json.dumps(row)] * 48))
    study = {
        "study": "parallel",
        "strategy": "random",
        "enqueue_priors": False,
        "model": {"weights": "random", "shape": shape},
        "dataset": {"train": "rows.jsonl", "val_size": 8},
        "card": card,
        "search_space": {
            "optim": ["adamw_8bit"],
            "lora_target": ["all"],
            "lora_rank": [16],
            "cutoff_len": [CUTOFF_LEN],
            "batch_size": [micro_batch],
            "learning_rate": {"min": 1e-5, "max": 1e-3},
        },
        "plan": {"per_device_train_batch_size": micro_batch, "gradient_checkpointing": True},
        "training": {"max_steps": STEPS, "rungs": []},
        "budget": {"hours": 1, "stop_early": False},
        "parallel_trials": count,
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


def trials_per_hour(trials: Sequence[TrialRecord]) -> float | None:
    """The rate while all workers train; None if it cannot be told."""
    ends: dict[int | None, list[float]] = {}
    for trial in trials:
        if trial.outcome == "complete" and trial.finished_at is not None:
            ends.setdefault(trial.worker_id, []).append(trial.finished_at.timestamp())
    if not ends or any(len(own) < 2 for own in ends.values()):
        return None
    start = max(min(own) for own in ends.values())
    stop = min(max(own) for own in ends.values())
    rates = [_rate([end for end in own if start <= end <= stop]) for own in ends.values()]
    return None if None in rates else 3600 * sum(rate for rate in rates if rate is not None)


def _rate(ends: list[float]) -> float | None:
    return (len(ends) - 1) / (max(ends) - min(ends)) if len(ends) > 1 else None


def measure(folder: Path, shape: str, micro_batch: int, count: int, card: str) -> dict[str, Any]:
    """Runs one search and returns its figures."""
    study = load_study(write_study(folder, shape, micro_batch, count, card))
    study = study.model_copy(update={"database": sqlite_url(folder / "search.db")})
    view = Quiet()
    prepared = prepare(study, view.note)
    decided = Quiet()
    auto = study.model_copy(update={"parallel_trials": "auto"})
    auto_count = parallel_trials(prepare(auto, decided.note), [], decided.note)
    began = time.monotonic()
    why = run_study(prepared, StopRule(None, None, began + SECONDS[count]), view)
    with contextlib.closing(open_store(str(study.database), create=False)) as store:
        (record,) = store.studies()
        trials = store.trials(record.id)
    return {
        "shape": shape,
        "micro_batch": micro_batch,
        "count": count,
        "trials_per_hour": trials_per_hour(trials),
        "step_seconds": [(trial.measured or {}).get("step_seconds") for trial in trials],
        "outcomes": [trial.outcome for trial in trials],
        "workers": len({trial.worker_id for trial in trials}),
        "first_eval_loss": next((t.eval_loss for t in trials if t.number == 0), None),
        "allocated_bytes": [(trial.measured or {}).get("allocated_bytes") for trial in trials][:1],
        "auto": auto_count,
        "stopped": why,
        "seconds": time.monotonic() - began,
        "notes": view.notes[:6],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.workers.parallel", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, appended to")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--card", default="h200-141gb", help="a card's name or file")
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS)
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    os.environ["VRAM_SEARCH_TRACE"] = "0"
    print("| model | trials at once | trials per hour | gain | median step | auto |")
    print("| --- | --: | --: | --: | --: | --: |")
    with tempfile.TemporaryDirectory(prefix="vram-search-parallel-") as name:
        os.environ["VRAM_SEARCH_HOME"] = str(Path(name) / "home")
        for shape, micro_batch in CASES:
            alone: float | None = None
            for count in options.counts:
                if time.monotonic() + SECONDS[count] > deadline:
                    continue
                folder = Path(name) / f"{shape}-{count}"
                found = measure(folder, shape, micro_batch, count, options.card)
                with options.out.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(found) + "\n")
                rate = found["trials_per_hour"]
                alone = rate if count == 1 else alone
                gain = f"{rate / alone:.2f}" if rate and alone else "-"
                steps = sorted(one for one in found["step_seconds"] if one)
                step = f"{steps[len(steps) // 2]:.3f} s" if steps else "-"
                shown = f"{rate:.0f}" if rate else "-"
                print(
                    f"| {shape} | {count} | {shown} | {gain} | {step} | {found['auto']} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
