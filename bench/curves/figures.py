"""What a task's rows say at a glance: spread, noise, how early the order of the losses is known."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from bench.curves.rows import Row
from bench.curves.runs import INTERVALS

OVERFIT = 0.005
"""Loss of the last evaluation above the best one, from which a run counts as overfitted."""
TOP = 5


def task_figures(rows: Sequence[Row]) -> dict[str, str]:
    """Figures in words, by name.

    Args:
        rows: of one task; seed 0 of each configuration and further seeds of some.
    """
    first = [row for row in rows if row["seed"] == 0]
    finite = [row for row in first if None not in row["eval_loss"]]
    best = [min(row["eval_loss"]) for row in finite]
    last = [row["eval_loss"][-1] for row in finite]
    overfit = sum(end > lowest + OVERFIT for end, lowest in zip(last, best, strict=True))
    found = {
        "runs": str(len(rows)),
        "configurations": str(len(first)),
        "diverged": str(len(first) - len(finite)),
        "optimizer steps a run": between([row["steps"] for row in rows], "d"),
        "loss before training": f"{rows[0]['eval_loss'][0]:.3f}",
        "best loss of a run": between(best, ".3f"),
        "sd of the best loss over configurations": f"{statistics.pstdev(best):.4f}",
        "sd of the best loss over seeds": seed_noise(rows),
        f"last loss > best + {OVERFIT:g}": f"{overfit} of {len(finite)}",
    }
    for point in (1, 3):
        early = [row["eval_loss"][point] for row in finite]
        name = f"{point}/{INTERVALS}"
        found[f"rank correlation of the loss at {name} with the best"] = rank_correlation(
            early, best
        )
        found[f"best {TOP} among the best third at {name}"] = str(kept(early, best))
    bytes_ = [row["max_allocated_bytes"] for row in rows if row["max_allocated_bytes"]]
    return found | {
        "max_allocated_bytes, GiB": between([size / 2**30 for size in bytes_], ".2f"),
        "train_seconds a run": between([row["train_seconds"] for row in rows], ".1f"),
    }


def between(values: Sequence[float], form: str) -> str:
    return f"{min(values):{form}} to {max(values):{form}}" if values else "not measured"


def seed_noise(rows: Sequence[Row]) -> str:
    """Pooled over the configurations with several seeds."""
    by_config: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if None not in row["eval_loss"]:
            by_config[row["config"]].append(min(row["eval_loss"]))
    variances = [statistics.variance(losses) for losses in by_config.values() if len(losses) > 1]
    if not variances:
        return "not measured"
    return f"{math.sqrt(statistics.mean(variances)):.4f} ({len(variances)} configurations)"


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> str:
    """Spearman's, without ties; a single pair has none."""
    if len(a) < 2:
        return "not measured"
    first, second = (np.argsort(np.argsort(values)) for values in (a, b))
    return f"{np.corrcoef(first, second)[0, 1]:.2f}"


def kept(early: Sequence[float], best: Sequence[float]) -> int:
    """How many of the best runs are in the best third at an early point."""
    third = set(np.argsort(early)[: math.ceil(len(early) / 3)].tolist())
    return len(third & set(np.argsort(best)[:TOP].tolist()))
