"""Trains a few steps with preference losses on a GPU: predicted beside measured allocated bytes.

    python -m bench.gpu_dpo [--row N] [--out FILE.jsonl]

The models have random weights of their shipped shapes in NF4. The losses are those of
`bench.preference_losses`; TRL's rows are left out where TRL cannot be imported. Each row runs in a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

from vram_search.estimate.memory.objectives import OBJECTIVES
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.shape import parse_shape
from vram_search.units import MIB

STEPS = 3
CONFIGS = Path(__file__).parents[1] / "configs" / "models"


@dataclass(frozen=True)
class Row:
    """One training."""

    model: str
    objective: str
    micro_batch: int
    cutoff_len: int
    gradient_checkpointing: bool = True
    optimizer: str = "adamw_torch_fused"


ROWS = (
    Row("qwen2.5-0.5b", "llamafactory dpo", 2, 512),
    Row("qwen2.5-1.5b", "llamafactory dpo", 1, 1024),
    Row("qwen2.5-1.5b", "llamafactory dpo", 1, 512, gradient_checkpointing=False),
    Row("qwen2.5-1.5b", "llamafactory orpo", 2, 512),
    Row("qwen2.5-1.5b", "llamafactory kto", 4, 512),
    Row("qwen2.5-1.5b", "llamafactory rm", 2, 1024),
    Row("qwen2.5-0.5b", "trl dpo", 2, 512),
    Row("qwen2.5-1.5b", "trl dpo", 1, 1024),
    Row("qwen2.5-1.5b", "trl dpo precomputed", 1, 1024),
    Row("qwen2.5-0.5b", "trl dpo in chunks", 2, 512),
    Row("qwen2.5-1.5b", "trl dpo in chunks", 2, 1024),
)


def workload_of(row: Row) -> Workload:
    """The training of a row: all linear layers, rank 16, padded texts."""
    config = json.loads((CONFIGS / row.model / "config.json").read_text("utf-8"))
    shape = parse_shape(config, row.model)
    is_trl = row.objective.startswith("trl")
    return Workload(
        shape=shape,
        lora_modules=tuple(shape.target_modules("all")),
        lora_rank=16,
        optimizer=row.optimizer,
        per_device_train_batch_size=row.micro_batch,
        cutoff_len=row.cutoff_len,
        gradient_checkpointing=row.gradient_checkpointing,
        equal_lengths=False,
        objective=row.objective,
        adapter_element_bytes=2 if is_trl else 4,
    )


def measure(row: Row) -> dict[str, Any]:
    """Trains STEPS steps of a row on the GPU; bytes as torch counts them."""
    import torch
    from accelerate.utils.operations import convert_outputs_to_fp32
    from peft import LoraConfig, get_peft_model

    from bench.preference_losses import losses
    from vram_search.train.model import random_base

    loss_of = losses().get(row.objective)
    if loss_of is None:
        return {"skipped": "this TRL computes another loss, or there is none"}
    workload = workload_of(row)
    model = random_base(CONFIGS / row.model, torch.bfloat16, seed=0)
    model.requires_grad_(False)
    model.config.use_cache = False
    lora = LoraConfig(r=16, target_modules=list(workload.lora_modules), task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    if row.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        model.enable_input_require_grads()
    for parameter in model.parameters():
        if parameter.requires_grad and workload.adapter_element_bytes == 2:
            parameter.data = parameter.data.to(torch.bfloat16)
    forward = torch.autocast("cuda", torch.bfloat16)(type(model).forward)
    model.forward = MethodType(convert_outputs_to_fp32(forward), model)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = partial(torch.optim.AdamW, fused=True)(trained)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    ready = torch.cuda.memory_allocated()
    torch.set_default_device("cuda")
    for _ in range(STEPS):
        loss_of(model, workload).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    return {
        "ready_bytes": ready,
        "measured_allocated_bytes": torch.cuda.max_memory_allocated(),
        "measured_reserved_bytes": torch.cuda.max_memory_reserved(),
    }


def run_row(number: int) -> dict[str, Any]:
    """Predicted and measured bytes of a row."""
    row = ROWS[number]
    estimate = predict(workload_of(row))
    predicted = {
        "predicted_allocated_bytes": estimate.allocated_bytes,
        "predicted_reserved_bytes": estimate.reserved_bytes,
        "moment": estimate.moment,
        "parts": estimate.allocated_parts,
    }
    return vars(row) | predicted | measure(row)


def table_row(found: dict[str, Any]) -> str:
    """A row of the Markdown table."""
    name = f"{found['model']} {found['objective']} {found['micro_batch']} x {found['cutoff_len']}"
    predicted = found["predicted_allocated_bytes"]
    measured = found.get("measured_allocated_bytes")
    if measured is None:
        return f"| {name} | {predicted / MIB:.0f} | {found.get('skipped', 'failed')} | |"
    difference = predicted / measured - 1
    return f"| {name} | {predicted / MIB:.0f} | {measured / MIB:.0f} | {difference:+.2%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--row", type=int, help="run this row here, and print it as JSON")
    parser.add_argument("--objective", action="append", choices=list(OBJECTIVES))
    parser.add_argument("--out", type=Path, help="append every row to this file as JSON")
    arguments = parser.parse_args()
    if arguments.row is not None:
        print(json.dumps(run_row(arguments.row)))
        return
    print("| training | predicted MiB | measured MiB | difference |")
    print("| --- | ---: | ---: | ---: |")
    for number, row in enumerate(ROWS):
        if arguments.objective and row.objective not in arguments.objective:
            continue
        done = subprocess.run(
            [sys.executable, "-m", "bench.gpu_dpo", "--row", str(number)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            print(f"| {row} | | failed: {done.stderr.strip().splitlines()[-1]} | |", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        print(table_row(found), flush=True)
        if arguments.out:
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
