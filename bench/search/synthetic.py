"""A believable table that nobody measured: `python -m bench.search.synthetic OUT.jsonl`.

For tests, and to see the bench work before there is a real table. It follows real curves of
SmolLM2-135M: final losses 1.64 to 1.89, noise between seeds 0.0024, rank correlation with the final
loss 0.82 at 1/9 and 0.85 at 1/3 of a run, the learning rate explains half of the variance, a sixth
ends above its own minimum. Every task's name says synthetic.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

from vram_search.spec import SearchSpace
from vram_search.spec.hyperparameters import MAIN
from vram_search.spec.space_parts import NumberRange

SPACE = SearchSpace.model_validate(
    {
        "optim": ["adamw_torch_fused", "adamw_8bit", "lion_8bit"],
        "cutoff_len": [96, 128, 160, 256],
        "batch_size": [4, 8, 16],
        "learning_rate": {"min": 2e-5, "max": 3e-3},
    }
)
NINTHS = 9
SEED_NOISE = 0.0024
REPEATED = 10
"""Configurations with three seeds."""
TRAIN_ROWS, EPOCHS, EXAMPLES, EXAMPLE_TOKENS = 300, 3, 60, 40
SECONDS_PER_STEP, SECONDS_PER_EVALUATION, SETUP_SECONDS = 0.25, 0.6, 0.8


def synthetic_rows(task: str, configs: int, seed: int) -> list[dict[str, Any]]:
    """Rows as `bench.search.table` reads them; the task is named "TASK (synthetic)"."""
    draw = random.Random(seed)
    tilt = draw.gauss(0, 0.3)
    difficulty = [draw.gauss(0, 0.3) for _ in range(EXAMPLES)]
    rows = []
    for number in range(configs):
        config = _config(draw)
        shape = _shape(config, draw, tilt)
        for run in range(3 if number < REPEATED else 1):
            rows.append(_row(f"{task} (synthetic)", number, run, config, shape, difficulty, draw))
    return rows


def _config(draw: random.Random) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for dimension in MAIN:
        options = SPACE.options(dimension)
        if isinstance(options, NumberRange):
            config[dimension.name] = math.exp(
                draw.uniform(math.log(options.min), math.log(options.max))
            )
        else:
            config[dimension.name] = draw.choice(options)
    return config


def _shape(config: dict[str, Any], draw: random.Random, tilt: float) -> dict[str, float]:
    """Final loss, speed of descent and overfitting of a configuration."""
    strength = math.log10(config["learning_rate"]) + 3.1 + tilt
    strength += 0.18 * math.log2(config["lora_rank"] / 16)
    strength -= 0.1 * math.log2(config["batch_size"] / 8)
    strength += 0.5 if config["optim"].startswith("lion") else 0.0
    below, above = min(strength, 0.0), max(strength, 0.0)
    loss = 1.65 + 0.14 * below**2 + 0.17 * above**2
    loss += 0.012 * (3 - SPACE.lora_target.index(config["lora_target"]))
    loss += 0.02 * (1 - config["cutoff_len"] / max(SPACE.cutoff_len))
    return {
        "loss": loss + draw.gauss(0, 0.007),
        "rate": 3.2 + 1.2 * math.tanh(strength) + draw.gauss(0, 0.35),
        "wobble": draw.gauss(0, 0.027),
        "overfit": max(0.0, strength) * 0.045,
        "diverges": 1.0 if strength > 1.3 else 0.0,
    }


def _row(
    task: str,
    number: int,
    seed: int,
    config: dict[str, Any],
    shape: dict[str, float],
    difficulty: list[float],
    draw: random.Random,
) -> dict[str, Any]:
    steps = math.ceil(TRAIN_ROWS / config["batch_size"]) * EPOCHS
    eval_steps = [round(steps * ninth / NINTHS) for ninth in range(NINTHS + 1)]
    noise = draw.gauss(0, SEED_NOISE)
    losses = [_loss_at(ninth / NINTHS, shape, noise) for ninth in range(NINTHS + 1)]
    tokens = config["batch_size"] * config["cutoff_len"]
    row = {
        "task": task,
        "config": f"c{number:03d}",
        "seed": seed,
        **config,
        "steps": steps,
        "eval_steps": eval_steps,
        "eval_loss": losses,
        "train_seconds": round(steps * SECONDS_PER_STEP * (0.6 + 0.4 * tokens / 2048), 3),
        "eval_seconds": round(SECONDS_PER_EVALUATION * sum(x is not None for x in losses), 3),
        "setup_seconds": SETUP_SECONDS,
        "max_allocated_bytes": round(2**28 + 2**20 * tokens * 0.6 + config["lora_rank"] * 2**21),
    }
    last = losses[-1]
    if last is not None:
        per_example = [math.exp(d + draw.gauss(0, 0.02)) for d in difficulty]
        scale = last * EXAMPLES * EXAMPLE_TOKENS / sum(per_example)
        row["example_loss_sums"] = [round(value * scale, 4) for value in per_example]
    return row


def _loss_at(share: float, shape: dict[str, float], noise: float) -> float | None:
    """Exponential descent from 2.6; some trainings rise again at the end."""
    if shape["diverges"] and share > 0.3:
        return None
    left = math.exp(-shape["rate"] * share) - math.exp(-shape["rate"])
    start = 2.6 - shape["loss"]
    early = shape["wobble"] * (1 - share) if share else 0.0
    rise = shape["overfit"] * max(0.0, share - 2 / 3) * 3
    return round(shape["loss"] + start * left * 0.55 + early + rise + noise * (share > 0), 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", default="a")
    parser.add_argument("--configs", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = synthetic_rows(arguments.task, arguments.configs, arguments.seed)
    arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
