"""Padding-free batches and compiled layers against today's sorted batches, on a GPU.

    python -m bench.step_time.padding_free [--models qwen2.5-0.5b qwen2.5-1.5b] [--seconds 330]

The rows have the lengths of the shipped data (four bytes a token) and random tokens; the weights
are random, in NF4. A step is forward and backward passes over eight rows, without the optimizer's.
Each variant runs the same rows; its loss and its gradient are compared with `sorted`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.step_time.measure import load_job, trial_job
from vram_search.resources import shipped
from vram_search.train import model as base_model
from vram_search.train.examples import TokenRow, collate
from vram_search.train.model import to_device

BATCH = 8
WARM_UP, STEPS = 6, 12
BYTES_A_TOKEN = 4
Batch = dict[str, torch.Tensor]


def row_lengths() -> list[int]:
    """Tokens of the shipped rows, in their order."""
    text = shipped("studies", "data", "triz_en.jsonl").read_text(encoding="utf-8")
    return [max(16, len(line.encode()) // BYTES_A_TOKEN) for line in text.splitlines()]


def drawn_rows(cutoff_len: int) -> list[list[TokenRow]]:
    """Rows of each step, drawn at random, with a loss on their second half."""
    generator = torch.Generator().manual_seed(0)
    lengths = row_lengths()
    steps = []
    for _ in range(WARM_UP + STEPS):
        rows = []
        for index in torch.randint(len(lengths), (BATCH,), generator=generator).tolist():
            size = min(cutoff_len, lengths[index])
            ids = torch.randint(0, 50_000, (size,), generator=generator).tolist()
            half = size // 2
            rows.append(TokenRow(tuple(ids), (-100,) * half + tuple(ids[half:])))
        steps.append(sorted(rows, key=lambda row: -len(row.input_ids)))
    return steps


def padded(rows: list[TokenRow]) -> Batch:
    return collate(rows, 0)


def joined(rows: list[TokenRow]) -> Batch:
    """One sequence of all rows; positions begin again at each row, which transformers reads as
    borders (`masking_utils.py`, `find_packed_sequence_indices`)."""
    ids = [token for row in rows for token in row.input_ids]
    labels = [label for row in rows for label in (-100, *row.labels[1:])]
    positions = [place for row in rows for place in range(len(row.input_ids))]
    names = {"input_ids": ids, "labels": labels, "position_ids": positions}
    return {name: torch.tensor([values]) for name, values in names.items()}


def run_step(model: Any, rows: list[TokenRow], micro_batch: int, build: Any) -> float:
    """Forward and backward passes of one optimizer step; returns the loss."""
    answers = sum(row.answer_tokens for row in rows)
    total = torch.zeros((), device="cuda")
    for start in range(0, len(rows), micro_batch):
        batch = to_device(build(rows[start : start + micro_batch]), torch.device("cuda"))
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**batch, num_items_in_batch=answers).loss
        loss.backward()
        total += loss.detach()
    return float(total)


def gradient(model: Any) -> torch.Tensor:
    found = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return torch.cat(found)


def measure(
    model: Any, steps: list[list[TokenRow]], micro_batch: int, build: Any
) -> dict[str, Any]:
    """Median seconds of a step, the warm-up's seconds, peak bytes, first loss and gradient."""
    began = time.perf_counter()
    loss = run_step(model, steps[0], micro_batch, build)
    first = gradient(model)
    for rows in steps[1:WARM_UP]:
        run_step(model, rows, micro_batch, build)
        model.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    warm = time.perf_counter() - began
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for rows in steps[WARM_UP:]:
        last = time.perf_counter()
        run_step(model, rows, micro_batch, build)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - last)
        model.zero_grad(set_to_none=True)
    peak = torch.cuda.max_memory_allocated()
    return {
        "seconds": statistics.mean(seconds), "warm": warm, "peak": peak,
        "loss": loss, "gradient": first,
    }  # fmt: skip


def compile_layers(base: Any) -> None:
    for layer in base.get_decoder().layers:
        layer.compile(dynamic=True)


def variants(base: Any) -> list[tuple[str, str, Any, Callable[[], None]]]:
    """Name, attention, batch builder and preparation."""
    return [
        ("sorted", "sdpa", padded, lambda: None),
        ("again", "sdpa", padded, lambda: None),
        ("free sdpa", "sdpa", joined, lambda: None),
        ("free flex", "flex_attention", joined, lambda: None),
        ("compiled", "sdpa", padded, lambda: compile_layers(base)),
    ]


def one_model(name: str, deadline: float) -> None:
    base = base_model.load_base(load_job(name))
    for cutoff_len, micro_batch in ((512, 8), (512, 2), (1024, 4)):
        steps = drawn_rows(cutoff_len)
        tokens = sum(len(row.input_ids) for rows in steps for row in rows)
        room = sum(
            len(rows[start].input_ids) * micro_batch
            for rows in steps
            for start in range(0, BATCH, micro_batch)
        )
        print(f"{name} cutoff {cutoff_len} micro-batch {micro_batch}: ", end="")
        print(f"{1 - tokens / room:.0%} of the sorted batches' tokens are padding", flush=True)
        row = {
            "optim": "adamw_8bit", "lora_target": "all", "lora_rank": 16, "cutoff_len": cutoff_len,
            "micro_batch": micro_batch, "accumulation": BATCH // micro_batch,
            "checkpointing": False, "liger": False,
        }  # fmt: skip
        reference: dict[str, Any] = {}
        for label, attention, build, prepare in variants(base):
            if time.monotonic() > deadline:
                print("out of time", flush=True)
                return
            torch._dynamo.reset()
            model = base_model.attach_adapter(base, trial_job(row))
            torch.manual_seed(3)
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.data.normal_(0, 0.02)
            model.train()
            base.set_attn_implementation(attention)
            try:
                prepare()
                found = measure(model, steps, micro_batch, build)
            except Exception as error:
                print(f"  {label:10} failed: {str(error).splitlines()[0][:150]}", flush=True)
                continue
            finally:
                for layer in base.get_decoder().layers:
                    layer._compiled_call_impl = None
                base.set_attn_implementation("sdpa")
                base_model.detach_adapter(model)
                del model
                base_model.free_caches()
            reference = reference or found
            difference = (found["gradient"] - reference["gradient"]).norm()
            print(
                f"  {label:10} {found['seconds']:.4f} s a step, "
                f"{found['seconds'] / reference['seconds']:.2f} x sorted, "
                f"warm-up {found['warm']:.1f} s, {found['peak'] / 2**30:.2f} GiB, "
                f"loss {found['loss'] - reference['loss']:+.5f} of {reference['loss']:.4f}, "
                f"gradient differs by {difference / reference['gradient'].norm():.4f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["qwen2.5-0.5b", "qwen2.5-1.5b"])
    parser.add_argument("--seconds", type=float, default=330)
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    for name in arguments.models:
        one_model(name, deadline)


if __name__ == "__main__":
    main()
