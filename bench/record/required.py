"""Rows for `bench.record.vram`: trainings without a limit and under falling limits.

    python -m bench.record.required --traces FOLDER > ROWS.jsonl

Each training runs once without a limit, with the allocator's events in a file of FOLDER, and once
under each of LIMITS x its predicted allocated bytes. The smallest limit that it survives is what
it requires; `bench.estimate_accuracy --rows MEASURED.jsonl` compares it with the prediction.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.estimate_accuracy import MODELS, build_workload
from vram_search.estimate.memory.predict import predict
from vram_search.units import GIB

LIMITS = (1.02, 1.04, 1.06, 1.08, 1.1, 1.13)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PLAIN: dict[str, Any] = {
    "lora_rank": 16,
    "lora_target": ALL,
    "per_device_train_batch_size": 2,
    "cutoff_len": 512,
    "optimizer": "adamw_8bit",
    "gradient_checkpointing": True,
    "quantization": "nf4",
    "double_quantization": True,
    "attention": "sdpa",
    "gradient_accumulation_steps": 1,
    "steps": 4,
    "prepare_for_kbit_training": False,
    "per_device_eval_batch_size": 0,
    "prediction_loss_only": True,
    "lengths": "full",
    "fused_linear_cross_entropy": False,
    "env": None,
}
RANDOM = {"lengths": "random", "steps": 12}
TRAININGS: tuple[dict[str, Any], ...] = (
    {"model": "qwen2.5-7b", "prepare_for_kbit_training": True},
    {"model": "qwen2.5-7b", **RANDOM},
    {"model": "llama-3.1-8b", "gradient_checkpointing": False},
    {"model": "qwen2.5-3b", **RANDOM, "per_device_train_batch_size": 4, "cutoff_len": 1024},
    {"model": "qwen2.5-3b", **RANDOM, "gradient_checkpointing": False},
    {"model": "qwen2.5-1.5b", "per_device_train_batch_size": 4, "cutoff_len": 1024},
    {"model": "gemma-3-1b", **RANDOM, "per_device_train_batch_size": 4},
)


def rows(traces: Path) -> Iterator[dict[str, Any]]:
    """The rows of all trainings, those of one model after another."""
    for number, changes in enumerate(TRAININGS):
        row = PLAIN | changes
        free = {**row, "note": f"required {number} free", "cap_gib": None}
        allocated = predict(build_workload(free, MODELS)).allocated_bytes
        yield {**free, "trace": str(traces / f"required_{number}.json.gz")}
        for share in LIMITS:
            limit = round(share * allocated / GIB, 3)
            yield {**row, "note": f"required {number} at {share}", "cap_gib": limit}


def main() -> None:
    """Prints a JSON line for each row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=Path, required=True)
    arguments = parser.parse_args()
    print("\n".join(json.dumps(row) for row in rows(arguments.traces)))


if __name__ == "__main__":
    main()
