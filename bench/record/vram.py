"""Measures the bytes of QLoRA runs on a GPU: one JSON line per row, each in a process of its own.

    python -m bench.record.vram ROWS.jsonl --models FOLDER --out MEASURED.jsonl [--jobs 6]

A row has the fields of `tests/fixtures/vram_truth.jsonl` (measured ones are ignored) and may add
`num_hidden_layers` (fewer layers of the same shape), `trace` (a file for the allocator's events)
and `trace_load` (from the loading of the weights on). Base models have random weights: peak bytes
depend on shapes and dtypes only. Rows that MEASURED.jsonl already holds are skipped, so the script
resumes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LOCKS: dict[Path, threading.Lock] = defaultdict(threading.Lock)


def weights_folder(row: dict[str, Any], scratch: Path) -> Path:
    return scratch / f"{row['model']}-{row.get('num_hidden_layers') or 'full'}"


def write_weights(row: dict[str, Any], models: Path, scratch: Path) -> None:
    """Random weights of the row's shape on disk, once."""
    folder = weights_folder(row, scratch)
    ready = folder / "ready"
    if ready.exists():
        return
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(models / row["model"])
    layers = row.get("num_hidden_layers")
    if layers:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    state = {
        name: torch.randn(value.shape, device="cuda", dtype=torch.bfloat16).mul_(0.02).cpu()
        for name, value in empty.state_dict().items()
        if not (config.tie_word_embeddings and name == "lm_head.weight")
    }
    config.architectures = [type(empty).__name__]
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    ready.touch()


def load(row: dict[str, Any], scratch: Path) -> Any:
    """The base model, quantised while it is loaded."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = {
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=row["double_quantization"],
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        "int8": BitsAndBytesConfig(load_in_8bit=True),
        "none": None,
    }[row["quantization"]]
    return AutoModelForCausalLM.from_pretrained(
        weights_folder(row, scratch),
        quantization_config=quantization,
        dtype=torch.bfloat16,
        device_map={"": 0},
        attn_implementation=row["attention"],
    )


def measure(row: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Trains as the row says and returns the row with its measured fields."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainingArguments

    if row.get("trace") and row.get("trace_load"):
        record_events()
    model = load(row, scratch)
    base_bytes = torch.cuda.memory_allocated()
    if row["prepare_for_kbit_training"]:
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=row["gradient_checkpointing"]
        )
    model.config.use_cache = False
    model = get_peft_model(
        model,
        LoraConfig(
            r=row["lora_rank"],
            lora_alpha=16,
            lora_dropout=0.0,
            target_modules=row["lora_target"],
            task_type="CAUSAL_LM",
        ),
    )
    torch.cuda.empty_cache()
    ready_bytes = torch.cuda.memory_allocated()

    batch, steps = row["per_device_train_batch_size"], row["steps"]
    rows = batch * row["gradient_accumulation_steps"] * steps
    generator = torch.Generator().manual_seed(0)
    lengths = [row["cutoff_len"]] * rows
    if row["lengths"] != "full":
        low = row["cutoff_len"] // 4
        lengths = torch.randint(low, row["cutoff_len"] + 1, (rows,), generator=generator).tolist()
        if row["lengths"] == "worst_first":
            lengths.sort(reverse=True)

    class Rows(Dataset[Any]):
        def __init__(self, lengths: list[int]) -> None:
            self.lengths = lengths

        def __len__(self) -> int:
            return len(self.lengths)

        def __getitem__(self, index: int) -> dict[str, Any]:
            ids = torch.randint(0, 1000, (self.lengths[index],), generator=generator)
            return {"input_ids": ids, "labels": ids.clone()}

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        longest = max(len(example["input_ids"]) for example in examples)
        out = {
            "input_ids": torch.zeros(len(examples), longest, dtype=torch.long),
            "labels": torch.full((len(examples), longest), -100),
            "attention_mask": torch.zeros(len(examples), longest, dtype=torch.long),
        }
        for i, example in enumerate(examples):
            size = len(example["input_ids"])
            out["input_ids"][i, :size] = example["input_ids"]
            out["labels"][i, :size] = example["labels"]
            out["attention_mask"][i, :size] = 1
        return out

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    eval_batch = row["per_device_eval_batch_size"]
    trainer = InOrder(
        model=model,
        args=TrainingArguments(
            output_dir=str(scratch / "out" / str(os.getpid())),
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=eval_batch or 8,
            gradient_accumulation_steps=row["gradient_accumulation_steps"],
            gradient_checkpointing=row["gradient_checkpointing"],
            max_steps=steps,
            bf16=True,
            optim=row["optimizer"],
            learning_rate=1e-4,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            prediction_loss_only=row["prediction_loss_only"],
            use_liger_kernel=row["fused_linear_cross_entropy"],
            dataloader_pin_memory=True,
        ),
        train_dataset=Rows(lengths),
        eval_dataset=Rows([row["cutoff_len"]] * 2 * eval_batch) if eval_batch else None,
        data_collator=collate,
    )
    if row["cap_gib"]:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(row["cap_gib"] * 2**30 / total)
    torch.cuda.reset_peak_memory_stats()
    if row.get("trace") and not row.get("trace_load"):
        record_events()
    trained = True
    try:
        trainer.train()
        if eval_batch:
            trainer.evaluate()
    except torch.OutOfMemoryError:
        trained = False
    stats = torch.cuda.memory_stats()
    if row.get("trace"):
        write_trace(Path(row["trace"]))
    return {
        **row,
        "trained": trained,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "base_model_bytes": base_bytes,
        "model_and_adapter_bytes": ready_bytes,
        "max_allocated_bytes": stats["allocated_bytes.all.peak"],
        "max_reserved_bytes": stats["reserved_bytes.all.peak"],
        "allocator_retries": stats["num_alloc_retries"],
        "nvml_process_bytes": None,
    }


def record_events() -> None:
    import torch

    torch.cuda.memory._record_memory_history(context="all", stacks="python", max_entries=2_000_000)


def write_trace(path: Path) -> None:
    """The allocator's events: [action, bytes, address, frame], frames of the model code only."""
    import torch

    frames: dict[str, int] = {}
    events = []
    snapshot = torch.cuda.memory._snapshot()
    for event in snapshot["device_traces"][0]:
        names = [
            f"{Path(frame['filename']).stem}.{frame['name']}:{frame['line']}"
            for frame in event.get("frames", [])
            if "site-packages" in frame["filename"] or "/site/" in frame["filename"]
        ]
        label = " < ".join(names[:7])
        where = frames.setdefault(label, len(frames))
        events.append([event["action"], event["size"], event["addr"], where])
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump({"frames": list(frames), "events": events}, file)


def run_row(row: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures one row in a fresh process."""
    environment = {**os.environ, **(row.get("env") or {})}
    command = [sys.executable, "-m", "bench.record.vram", "--one", json.dumps(row)]
    command += ["--models", str(arguments.models), "--scratch", str(arguments.scratch)]
    weights = LOCKS[weights_folder(row, arguments.scratch)]
    with weights:  # the first row of a model writes them
        subprocess.run([*command, "--prepare"], capture_output=True, check=False, timeout=300)
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    if done.returncode:
        return {**row, "error": done.stderr[-1500:]}
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def key(row: dict[str, Any]) -> str:
    return f"{row['model']}/{row['note']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, nargs="?")
    parser.add_argument("--one", help="one row as JSON, in this process")
    parser.add_argument("--prepare", action="store_true", help="with --one: write its weights only")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/vram-models"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=570)
    arguments = parser.parse_args()
    if arguments.one:
        row = json.loads(arguments.one)
        if arguments.prepare:
            write_weights(row, arguments.models, arguments.scratch)
        else:
            print(json.dumps(measure(row, arguments.scratch)))
        return
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines() if line]
    done = set()
    if arguments.out.exists():
        done = {key(json.loads(line)) for line in arguments.out.read_text().splitlines()}
    started = time.monotonic()

    def work(row: dict[str, Any]) -> None:
        if key(row) in done or time.monotonic() - started > arguments.seconds:
            return
        begun = time.monotonic()
        try:
            measured = run_row(row, arguments)
        except subprocess.TimeoutExpired:
            measured = {**row, "error": "timeout"}
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(measured) + "\n")
        error = measured.get("error", "")[-300:]
        print(
            f"{time.monotonic() - begun:5.1f} s  {key(row)}  "
            f"{measured.get('max_allocated_bytes')} {error}",
            flush=True,
        )

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(work, rows))


if __name__ == "__main__":
    main()
