"""Measures seconds per optimizer step on a GPU, one JSON line per configuration.

    python -m bench.step_time.measure OUT.jsonl [--models qwen2.5-0.5b ...] [--profile]

The trial's own code (`vram_search.train`) on random weights and rows that reach the cutoff. With
`--profile` two configurations a model run under torch's profiler first: what the card waits for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from vram_search.protocol import LoadJob, Step, TrialJob
from vram_search.resources import shipped
from vram_search.spec import Hyperparameters, MemoryPlan
from vram_search.spec.dataset import DatasetSpec
from vram_search.spec.study import TrainingSpec
from vram_search.train import model as base_model
from vram_search.train.examples import TokenRow
from vram_search.train.trainer import StepGuard, make_trainer

MODELS = ("qwen2.5-0.5b", "qwen2.5-3b", "qwen2.5-7b")
SIZES = ((512, 1), (512, 4), (1024, 1), (1024, 4), (1024, 8), (2048, 4))
"""(cutoff_len, micro-batch)."""
STEPS = 3
"""The first warms up; the median of the others counts."""
MODULES = {
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "qv": ("q_proj", "v_proj"),
}


def configurations(liger: bool) -> list[dict[str, Any]]:
    plain = {"accumulation": 1, "optim": "adamw_8bit", "lora_target": "all", "lora_rank": 16}
    rows: list[dict[str, Any]] = []
    for checkpointing in (True, False):
        shared = {**plain, "liger": liger, "checkpointing": checkpointing}
        rows += [{**shared, "cutoff_len": c, "micro_batch": b} for c, b in SIZES]
        if not liger and checkpointing:
            one = {**shared, "cutoff_len": 1024, "micro_batch": 1}
            rows += [{**one, "accumulation": 4}, {**one, "optim": "adamw_torch_fused"}]
            rows += [{**one, "lora_target": "qv"}, {**one, "lora_rank": 64}]
    return rows


def load_job(model: str, *, liger: bool = False) -> LoadJob:
    return LoadJob(
        model_name_or_path=str(shipped("configs", "models", model)),
        random_weights=True,
        tokenizer=None,
        dataset=DatasetSpec.model_construct(),
        seed=1,
        cutoff_lens=(512,),
        eval_cutoff_len=512,
        enable_liger_kernel=liger,
    )


def trial_job(row: dict[str, Any]) -> TrialJob:
    return TrialJob(
        number=0,
        hyperparameters=Hyperparameters(
            optim=row["optim"],
            lora_target=row["lora_target"],
            lora_rank=row["lora_rank"],
            lora_alpha=2 * row["lora_rank"],
            cutoff_len=row["cutoff_len"],
            batch_size=row["micro_batch"] * row["accumulation"],
            learning_rate=1e-4,
        ),
        target_modules=MODULES[row["lora_target"]],
        plan=MemoryPlan(
            per_device_train_batch_size=row["micro_batch"],
            gradient_accumulation_steps=row["accumulation"],
            gradient_checkpointing=row["checkpointing"],
            enable_liger_kernel=row["liger"],
        ),
        training=TrainingSpec(max_steps=STEPS, rungs=()),
        eval_cutoff_len=512,
        seed=1,
        adapter_folder="unused",
    )


def measure(base: Any, row: dict[str, Any]) -> dict[str, Any]:
    job = trial_job(row)
    model = base_model.attach_adapter(base, job)
    if not row["checkpointing"]:
        base.gradient_checkpointing_disable()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50000, (job.plan.batch_size, row["cutoff_len"]), generator=generator)
    rows = [TokenRow(tuple(line), tuple(line)) for line in ids.tolist()] * STEPS
    seconds: list[float] = []
    last = time.perf_counter()

    def report(step: Step) -> None:
        nonlocal last
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - last)
        last = time.perf_counter()

    torch.cuda.reset_peak_memory_stats()
    trainer = make_trainer(
        model, job, job.plan, rows, steps=STEPS, horizon=STEPS, pad_token_id=0,
        callbacks=[StepGuard(report)],
    )  # fmt: skip
    last = time.perf_counter()
    try:
        trainer.train()
    finally:
        base_model.detach_adapter(model)
    peak = torch.cuda.max_memory_allocated()
    del trainer, model
    base_model.free_caches()
    return {"step_seconds": round(statistics.median(seconds[1:]), 4), "allocated_bytes": peak}


def profile(base: Any, row: dict[str, Any]) -> None:
    """Prints the card's busy share of the wall time, launches a step, the costliest calls."""
    measure(base, row)  # warms up
    with torch_profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as run:
        began = time.perf_counter()
        measure(base, row)
        wall = time.perf_counter() - began
    events = run.key_averages()
    busy = sum(e.self_device_time_total for e in events if e.device_type == DeviceType.CUDA) / 1e6
    launches = sum(e.count for e in events if e.key in ("cudaLaunchKernel", "cuLaunchKernelEx"))
    waits = sum(e.cpu_time_total for e in events if "Synchronize" in e.key) / 1e6
    print(json.dumps(row))
    print(
        f"busy {busy / wall:.0%} of {wall:.2f} s, {launches / STEPS:.0f} launches a step, ", end=""
    )
    print(f"{waits / wall:.0%} of the wall time in synchronisation (profiled: slower than alone)")
    print(events.table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=48))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    with arguments.out.open("a", encoding="utf-8") as out:
        for model, liger in itertools.product(arguments.models, (False, True)):
            base = base_model.load_base(load_job(model, liger=liger))
            if arguments.profile and not liger:
                for checkpointing, batch in ((True, 1), (False, 4)):
                    first = {**configurations(liger)[0], "cutoff_len": 1024}
                    profile(base, {**first, "checkpointing": checkpointing, "micro_batch": batch})
            for row in configurations(liger):
                measured = measure(base, row)
                print(json.dumps({"model": model, **row, **measured}), file=out, flush=True)
            del base
            base_model.free_caches()


if __name__ == "__main__":
    main()
