"""Fits the model of a step's seconds to measured ones, and says how far off it is.

    python -m bench.step_time.fit [ROWS.jsonl]

Prints the constants of `vram_search.estimate.step_time.H200_FIT`. The rows are written by
`bench.step_time.measure`; least absolute deviations of log seconds, since a busy host slows
single rows down by up to a half.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.step_time import (
    H200_FIT,
    Coefficients,
    Speed,
    StepTimeModel,
    kind_of,
    step_seconds,
)
from vram_search.resources import shipped
from vram_search.spec import load_shape
from vram_search.spec.card import Card, load_card
from vram_search.worker.step_time import corrected

ROWS = Path(__file__).parent / "step_times.jsonl"
FIRST_GUESS = Coefficients(
    layer_launch=2e-3,
    lora_launch=5e-4,
    micro_batch=3e-3,
    tensor=2e-5,
    eight_bit_tensor=5e-5,
    peak_share=0.65,
    element_bytes=6.0,
)
GUESS_WEIGHT = 0.02
"""Weight of a coefficient's squared log distance from the first guess."""
SMALLEST_RESIDUAL = 0.02
ITERATIONS = 60
TRIALS_SEEN = 6
"""Rows of a model that correct the prediction of its other rows."""
SHUFFLES = 200


@dataclass(frozen=True)
class Measured:
    """One row."""

    model: str
    workload: Workload
    seconds: float


def read(file: Path) -> list[Measured]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [measured(json.loads(line)) for line in lines]


def measured(row: dict[str, Any]) -> Measured:
    shape = load_shape(shipped("configs", "models", row["model"]))
    workload = Workload(
        shape=shape,
        lora_modules=tuple(shape.target_modules(row["lora_target"])),
        lora_rank=row["lora_rank"],
        optimizer=row["optim"],
        per_device_train_batch_size=row["micro_batch"],
        cutoff_len=row["cutoff_len"],
        gradient_checkpointing=row["checkpointing"],
        gradient_accumulation_steps=row["accumulation"],
        fused_linear_cross_entropy=row["liger"],
    )
    return Measured(row["model"], workload, row["step_seconds"])


def fit(rows: Sequence[Measured], step_time: StepTimeModel) -> Coefficients:
    """Levenberg-Marquardt on the coefficients' logarithms, with weights that turn squares into
    absolute values."""
    guess = np.log(np.array(astuple(FIRST_GUESS)))

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        coefficients = Coefficients(*np.exp(logs).tolist())
        predicted = [step_seconds(row.workload, step_time, fit=coefficients) for row in rows]
        measured = [row.seconds for row in rows]
        return np.log(np.array(predicted, dtype=np.float64) / np.array(measured, dtype=np.float64))

    def cost(logs: NDArray[np.float64]) -> float:
        distance = ((logs - guess) ** 2).sum()
        return float(np.abs(residuals(logs)).sum() + GUESS_WEIGHT * distance)

    logs, damping = guess, 1e-2
    for _ in range(ITERATIONS):
        now = residuals(logs)
        small = 1e-5 * np.eye(len(logs))
        slopes = np.stack([(residuals(logs + row) - now) / 1e-5 for row in small], axis=1)
        weights = 1 / np.maximum(np.abs(now), SMALLEST_RESIDUAL)
        gradient = slopes.T @ (weights * now) + 2 * GUESS_WEIGHT * (logs - guess)
        curvature = slopes.T @ (weights[:, None] * slopes) + 2 * GUESS_WEIGHT * np.eye(len(logs))
        step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), -gradient)
        if cost(logs + step) < cost(logs):
            logs, damping = logs + step, damping / 3
        else:
            damping *= 4
    return Coefficients(*(float(f"{value:.3g}") for value in np.exp(logs)))


def errors(
    rows: Sequence[Measured], step_time: StepTimeModel, coefficients: Coefficients
) -> list[float]:
    """|predicted / measured - 1| of each row."""
    return [
        abs(step_seconds(row.workload, step_time, fit=coefficients) / row.seconds - 1)
        for row in rows
    ]


def held_out(
    rows: Sequence[Measured], step_time: StepTimeModel, slower: float
) -> tuple[list[float], list[float]]:
    """Errors on each model by what was fitted to the others: before, and after some of its own rows
    have corrected the model as the trials of a study do.

    Args:
        slower: by which all measured seconds are multiplied: another device's.
    """
    before, after = [], []
    for model in sorted({row.model for row in rows}):
        coefficients = fit([row for row in rows if row.model != model], step_time)
        own = [replace(row, seconds=slower * row.seconds) for row in rows if row.model == model]
        for seed in range(SHUFFLES):
            shuffled = random.Random(seed).sample(own, len(own))
            ratios = [
                (
                    kind_of(r.workload),
                    r.seconds / step_seconds(r.workload, step_time, fit=coefficients),
                )
                for r in shuffled[:TRIALS_SEEN]
            ]
            unseen = shuffled[TRIALS_SEEN:]
            before += errors(unseen, step_time, coefficients)
            after += errors(unseen, corrected(step_time, ratios), coefficients)
    return before, after


def h200() -> StepTimeModel:
    return StepTimeModel(Speed.of(Card.model_validate(load_card("h200-141gb"))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, nargs="?", default=ROWS)
    rows, step_time = read(parser.parse_args().rows), h200()
    found = fit(rows, step_time)
    for field in fields(found):
        value, stored = getattr(found, field.name), getattr(H200_FIT, field.name)
        print(f"{field.name:<18} {value:<10g} stored {stored:g}")
    show(f"{len(rows)} rows, all fitted", errors(rows, step_time, found))
    for slower in (1.0, 1.5):
        before, after = held_out(rows, step_time, slower)
        where = f"a device {slower:g} x as slow" if slower != 1 else "the same device"
        show(f"each model by the fit to the others, {where}", before)
        show(f"  corrected by {TRIALS_SEEN} rows of its own", after)


def show(what: str, found: list[float]) -> None:
    p90 = sorted(found)[math.ceil(0.9 * len(found)) - 1]
    print(f"{what}: |error| median {statistics.median(found):.1%}, 90 % within {p90:.1%}")


if __name__ == "__main__":
    main()
