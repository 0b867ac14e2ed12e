"""Records the allocator's history of short trainings, for the tests of `train.breakdown`. On a GPU:

    python -m bench.record.breakdown OUT.json.gz [--liger] [--model qwen2.5-3b --layers 36]

Checkpointing off and on. Printed: the parts, torch's own peak, and the
seconds of a training that is recorded and of one that is not.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.step_time.measure import load_job, trial_job
from vram_search.resources import shipped
from vram_search.train import breakdown
from vram_search.train import model as base_model
from vram_search.train.examples import TokenRow
from vram_search.train.trainer import make_trainer

ROW: dict[str, Any] = {
    "optim": "adamw_8bit",
    "lora_target": "all",
    "lora_rank": 16,
    "cutoff_len": 512,
    "micro_batch": 4,
    "accumulation": 2,
}
STEPS = 3


def load_base(model: str, layers: int, liger: bool) -> Any:
    shape = shipped("configs", "models", model) / "config.json"
    config = json.loads(shape.read_text()) | {"num_hidden_layers": layers, "layer_types": None}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        changes = {"model_name_or_path": folder, "enable_liger_kernel": liger}
        return base_model.load_base(load_job(model).model_copy(update=changes))


def pack(snapshot: dict[str, Any], stacks: dict[str, int]) -> dict[str, Any]:
    """A snapshot that keeps what is replayed; stacks are numbered, in `stacks`."""

    def number(entry: dict[str, Any]) -> int:
        calls = [["/".join(f["filename"].split("/")[-4:]), f["name"]] for f in entry["frames"]]
        return stacks.setdefault(json.dumps(calls), len(stacks))

    def packed(entry: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
        kept = {key: entry[key] for key in keys if key in entry}
        return kept | ({"frames": number(entry)} if entry.get("frames") else {})

    keys = ("address", "size", "requested_size", "state")
    segments = [
        {key: segment[key] for key in ("address", "total_size", "is_expandable")}
        | {"blocks": [packed(block, keys) for block in segment["blocks"]]}
        for segment in snapshot["segments"]
    ]
    trace = [packed(event, ("action", "addr", "size")) for event in snapshot["device_traces"][0]]
    return {"segments": segments, "device_traces": [trace]}


def train(base: Any, row: dict[str, Any], *, recorded: bool) -> tuple[float, dict[str, int]]:
    """Seconds of a training, and its parts where they are recorded."""
    job = trial_job(row)
    model = base_model.attach_adapter(base, job)
    if not row["checkpointing"]:
        base.gradient_checkpointing_disable()
    tokens = (7,) * row["cutoff_len"]
    rows = [TokenRow(tokens, tokens)] * (job.plan.batch_size * STEPS)
    trainer = make_trainer(
        model, job, job.plan, rows, steps=STEPS, horizon=STEPS, pad_token_id=0, callbacks=[]
    )
    base_model.free_caches()
    torch.cuda.reset_peak_memory_stats()
    recorder = breakdown.PeakRecorder(model, optimizer=lambda: trainer.optimizer)
    began = time.perf_counter()
    with recorder if recorded else contextlib.nullcontext():
        trainer.train()
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    base_model.detach_adapter(model)
    return seconds, recorder.parts()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="qwen2.5-0.5b")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--liger", action="store_true")
    arguments = parser.parse_args()
    kept: list[Any] = []
    attribute_peak = breakdown.attribute_peak

    def keep(before: Any, after: Any, owners: Any) -> dict[str, int]:
        kept[:] = [before, after, owners]
        return attribute_peak(before, after, owners)

    breakdown.attribute_peak = keep
    variants: list[dict[str, Any]] = []
    stacks: dict[str, int] = {}
    base = load_base(arguments.model, arguments.layers, arguments.liger)
    for checkpointing in (False, True):
        row = {**ROW, "liger": arguments.liger, "checkpointing": checkpointing}
        train(base, row, recorded=True)
        plain = min(train(base, row, recorded=False)[0] for _ in range(3))
        seconds, parts = train(base, row, recorded=True)
        peak = torch.cuda.max_memory_allocated()
        facts = {**row, "max_memory_allocated": peak}
        facts |= {"parts": parts, "seconds_plain": plain, "seconds_recorded": seconds}
        before, after, owners = kept
        print(json.dumps({**facts, "events": len(after["device_traces"][0])}))
        packed = {"before": pack(before, stacks), "after": pack(after, stacks)}
        known = [[*key, name] for key, name in owners.items()]
        variants.append({**facts, **packed, "owners": known})
    with gzip.open(arguments.out, "wt", encoding="utf-8") as file:
        json.dump({"stacks": [json.loads(text) for text in stacks], "variants": variants}, file)


if __name__ == "__main__":
    main()
