"""Compares predicted bytes with recorded ones of the real training code, without a GPU.

    python -m bench.trace.check [--model SLUG ...] [--quick] [--jobs 2]

Run on every new release of torch, transformers, peft and bitsandbytes (`make trace-check`): a
difference above its tolerance names the configuration whose formula no longer holds. Exit code 1
then. Each model has two layers of its real shape; cuBLAS workspaces and what loading leaves in its
blocks are on neither side.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from vram_search.estimate.memory.allocator import Block, CachingAllocator
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.persistent import base_bytes
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.allocator_sizes import block_size
from vram_search.spec.shape import parse_shape
from vram_search.units import MIB

CONFIGS = Path(__file__).parents[2] / "configs" / "models"
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
MODELS = (
    "llama-3.2-1b",
    "qwen2.5-1.5b",
    "qwen3-0.6b",
    "mistral-7b-v0.3",
    "gemma-2-2b",
    "gemma-3-1b",
    "phi-3-mini-4k",
    "olmo-2-1b",
    "granite-3.3-2b",
    "smollm3-3b",
)
LAYERS = 2
TOLERANCE = 0.01
"""Largest relative error of allocated bytes."""
TOLERANCE_WIDE = 0.03
"""The same for int8 and eager attention."""
TOLERANCE_RESERVED = 0.20
"""Whether one freed block serves the next large request decides on a whole segment, which is up to
this much of a model of two layers."""
NO_WORKSPACES = Hardware(cublas_workspace_bytes=0, cublaslt_workspace_bytes=0)


@dataclass(frozen=True)
class Case:
    """One configuration; `config` is the model's `config.json`."""

    name: str
    config: dict[str, Any]
    workload: Workload

    @property
    def tolerance(self) -> float:
        wide = self.workload.quantization == "int8" or self.workload.attention == "eager"
        return TOLERANCE_WIDE if wide else TOLERANCE


@dataclass(frozen=True)
class Result:
    """Predicted and traced bytes of a case."""

    case: Case
    predicted: int
    traced: int
    predicted_reserved: int
    traced_reserved: int

    @property
    def difference(self) -> float:
        return self.predicted / self.traced - 1

    @property
    def difference_reserved(self) -> float:
        return self.predicted_reserved / self.traced_reserved - 1

    @property
    def agrees(self) -> bool:
        return (
            abs(self.difference) <= self.case.tolerance
            and abs(self.difference_reserved) <= TOLERANCE_RESERVED
        )


def load_config(model: str) -> dict[str, Any]:
    """The shipped shape of a model, with `LAYERS` layers."""
    config: dict[str, Any] = json.loads((CONFIGS / model / "config.json").read_text("utf-8"))
    config["num_hidden_layers"] = LAYERS
    if config.get("layer_types"):
        config["layer_types"] = config["layer_types"][:LAYERS]
    return config


def plain(model: str) -> Case:
    """All linear layers, rank 16, 2 x 512 tokens, checkpointing, NF4, sdpa."""
    config = load_config(model)
    shape = parse_shape(config, model)
    workload = Workload(
        shape=shape,
        lora_modules=tuple(shape.target_modules("all")),
        lora_rank=16,
        optimizer="adamw_8bit",
        per_device_train_batch_size=2,
        cutoff_len=512,
    )
    return Case(model, config, workload)


def varied(case: Case, name: str, **changes: Any) -> Case:
    return replace(case, name=f"{case.name} {name}", workload=replace(case.workload, **changes))


def cases(models: tuple[str, ...]) -> Iterator[Case]:
    """Every combination of base, checkpointing, attention and upcast, and a few other sizes."""
    for model in models:
        case = plain(model)
        for quantization, attention, checkpointing, prepare in product(
            ("nf4", "none", "int8"), ("sdpa", "eager"), (True, False), (True, False)
        ):
            if (quantization, attention) == ("int8", "eager"):
                continue
            if case.workload.shape.attention_softcap and attention == "sdpa":
                continue  # transformers' `sdpa_attention_forward` refuses a softcap
            words = [
                {"none": "bf16"}.get(quantization, quantization),
                attention,
                "ckpt" if checkpointing else "nogc",
                "prepare" if prepare else "",
            ]
            yield varied(
                case,
                " ".join(words).rstrip(),
                quantization=quantization,
                attention=attention,
                gradient_checkpointing=checkpointing,
                prepare_for_kbit_training=prepare,
            )
    case = plain(models[0])
    yield varied(case, "r64 accumulated", lora_rank=64, gradient_accumulation_steps=2)
    yield varied(case, "4 x 256", per_device_train_batch_size=4, cutoff_len=256)
    yield varied(
        case, "q,v fused AdamW", lora_modules=("q_proj", "v_proj"), optimizer="adamw_torch_fused"
    )
    yield varied(case, "1 x 2048 nogc", cutoff_len=2048, gradient_checkpointing=False)
    for quantization, checkpointing in product(("nf4", "none", "int8"), (True, False)):
        yield varied(
            case,
            f"{quantization} dropout {'ckpt' if checkpointing else 'nogc'}",
            quantization=quantization,
            gradient_checkpointing=checkpointing,
            lora_dropout=0.1,
        )
    for checkpointing, dropout in product((True, False), (0.0, 0.1)):
        yield varied(
            case,
            f"DoRA {'ckpt' if checkpointing else 'nogc'}{' dropout' if dropout else ''}",
            gradient_checkpointing=checkpointing,
            lora_dropout=dropout,
            use_dora=True,
        )


def quick_cases() -> list[Case]:
    """One of each kind, for the test suite."""
    qwen, phi = plain("qwen2.5-1.5b"), plain("phi-3-mini-4k")
    return [
        plain("llama-3.2-1b"),
        varied(qwen, "nogc prepare", gradient_checkpointing=False, prepare_for_kbit_training=True),
        varied(qwen, "int8", quantization="int8"),
        varied(phi, "bf16 eager", quantization="none", attention="eager"),
        varied(qwen, "nogc DoRA", gradient_checkpointing=False, use_dora=True),
        varied(qwen, "nogc dropout", gradient_checkpointing=False, lora_dropout=0.1),
    ]


def replayed(events: list[tuple[int, int]], ready: int) -> CachingAllocator:
    """The allocator after a recorded training; what is there before it is one block."""
    allocator = CachingAllocator()
    sizes = {key: size for size, key in events[:ready] if size >= 0}
    for size, key in events[:ready]:
        if size < 0:
            del sizes[key]
    allocator.allocate(sum(block_size(size) for size in sizes.values()))
    live: dict[int, Block] = {}
    for size, key in events[ready:]:
        if size >= 0:
            live[key] = allocator.allocate(size)
        elif key in live:
            allocator.free(live.pop(key))
    return allocator


def check(case: Case) -> Result:
    """Predicts and traces a case."""
    from bench.trace.fake_training import record

    workload = case.workload
    estimate = predict(workload, NO_WORKSPACES)
    base = base_bytes(
        workload.shape,
        workload.quantization,
        double=workload.double_quantization,
        expandable=True,
    )
    slack = estimate.parts["base_weights"] - base
    stream = record(case.config, workload)
    allocator = replayed(stream.events, stream.ready)
    return Result(
        case,
        estimate.allocated_bytes - slack,
        allocator.peak_allocated,
        estimate.reserved_bytes - slack,
        allocator.peak_reserved,
    )


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def row(result: Result) -> str:
    return (
        f"{result.case.name:<40} {result.predicted / MIB:9.1f} {result.traced / MIB:9.1f} "
        f"{result.difference:+7.2%} {result.difference_reserved:+8.2%}"
        f"{'' if result.agrees else '  <--'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--quick", action="store_true", help="five cases")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    models = tuple(arguments.model or MODELS)
    chosen = quick_cases() if arguments.quick else list(cases(models))
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES), flush=True)
    print(f"{'case':<40} {'predicted':>9} {'traced':>9} {'MiB':>7} {'reserved':>8}")
    failed = 0
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn"), quiet) as pool:
        for result in pool.map(check, chosen):
            failed += not result.agrees
            print(row(result), flush=True)
    print(f"{len(chosen)} cases, {failed} beyond tolerance")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
