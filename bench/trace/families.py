"""Traced bytes against measured runs of families without a formula.

    python -m bench.trace.families [--model NAME ...] [--json]

Rows have the fields of `tests/fixtures/families_truth.jsonl` (an H200, real `from_pretrained` in
NF4, transformers 5.24, torch 2.11). The measured bytes of base and adapter are taken as they are,
so the errors are those of the trace. Rows whose loss Liger fused are left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_search.spec.allocator_sizes import CUBLAS_WORKSPACE_DATACENTER
from vram_search.trace.settings import Batch, TraceSettings
from vram_search.trace.tracer import Answer, trace
from vram_search.units import MIB

DATA = Path(__file__).parents[2] / "tests" / "fixtures"
FUSED_BY_LIGER = ("gemma4-e2b-text", "qwen3.5-4b-text")
"""Models of these rows for which `use_liger_kernel` fuses the loss; for the others Trainer found no
patch and trained without one."""
STATE_BYTES = {"adamw_8bit": 2 + 8 / 256, "adamw_torch_fused": 8.0}
"""A parameter's states: one byte each and an fp32 scale per 256, or fp32."""


@dataclass(frozen=True)
class Result:
    """One row with its prediction."""

    row: dict[str, Any]
    predicted: float
    answer: Answer
    seconds: float

    @property
    def error(self) -> float:
        return self.predicted / float(self.row["max_allocated_bytes"]) - 1


def rows(models: list[str] | None) -> Iterator[dict[str, Any]]:
    """The measured rows that are traced."""
    for line in (DATA / "families_truth.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        fused = row["fused_linear_cross_entropy"] and row["model"] in FUSED_BY_LIGER
        if not fused and (not models or row["model"] in models):
            yield row


def predict(row: dict[str, Any]) -> Result:
    """Traces a row's training and adds what stays."""
    file = DATA / "families" / row["model"] / "config.json"
    settings = TraceSettings(
        lora_target=tuple(row["lora_target"]),
        gradient_checkpointing=row["gradient_checkpointing"],
        attention=row["attention"],
    )
    batch = Batch(row["per_device_train_batch_size"], row["cutoff_len"])
    began = time.perf_counter()
    config = json.loads(file.read_text(encoding="utf-8"))
    answer = trace(config, settings, batch, lambda done, count: None)
    seconds = time.perf_counter() - began
    peak = max(fit.peak(*batch, row["lora_rank"]) for fit in answer.fits)
    states = STATE_BYTES[row["optimizer"]] * row["trainable_parameters"]
    stays = row["model_and_adapter_bytes"] + states + 2 * CUBLAS_WORKSPACE_DATACENTER
    return Result(row, stays + peak.total, answer, seconds)


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    errors = []
    for result in map(predict, rows(arguments.model)):
        errors.append(abs(result.error))
        row = result.row
        if not arguments.json:
            print(
                f"{row['model']:<17}{row['note']:<22}{result.predicted / MIB:9.1f}"
                f"{row['max_allocated_bytes'] / MIB:9.1f} {result.error:+8.3%}"
                f"{result.seconds:7.1f} s",
                flush=True,
            )
    figures = {"rows": len(errors), "median": statistics.median(errors), "worst": max(errors)}
    if arguments.json:
        print(json.dumps(figures))
    else:
        print(f"{len(errors)} rows: median {figures['median']:.3%}, worst {figures['worst']:.3%}")


if __name__ == "__main__":
    main()
