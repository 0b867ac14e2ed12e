"""Runs the short measurements of `vram-search calibrate`, each in its own process:

    python -m vram_search.train.calibrate constants < /dev/null
    python -m vram_search.train.calibrate training < /dev/null

Each prints JSON, one measurement per line, and after each line waits for a line on standard input
while the supervisor reads NVML. All other output goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vram_search.protocol import LoadJob, TrialJob
from vram_search.spec.dataset import DatasetSpec
from vram_search.spec.plan import MemoryPlan
from vram_search.spec.point import Hyperparameters
from vram_search.spec.study import TrainingSpec
from vram_search.train.channel import silence_libraries
from vram_search.train.patches import clear_cublas_workspaces
from vram_search.units import KIB, MIB

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 32_000,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 2,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
"""Two layers of Qwen2.5-0.5B's shape. On an H200 its runs and those of models up to 8B had the same
context (tests/fixtures/vram_truth.jsonl); the kernels of a narrower model may differ."""
CUTOFF_LEN = 512
EQUAL = (CUTOFF_LEN,) * 4
"""Lengths in tokens of the texts that need no padding."""
PADDED = (512, 448, 384, 320)
"""Lengths in tokens, all different, so that every batch is padded in any order."""
STEPS = 2
"""Optimizer steps of the short training; the states exist from the first step on."""
REQUESTS: tuple[tuple[int, ...], ...] = (
    (KIB,),
    (KIB + 1,),
    (MIB,),
    (MIB + 1,),
    (10 * MIB - 512,),
    (10 * MIB,),
    (10 * MIB + 1,),
    (12 * MIB, 11 * MIB),
    (12 * MIB, 11 * MIB - 512),
)
"""Lists of requests in bytes, each freed before the next. They show the rounding, the segments'
sizes, and which remainder of a cached block is split off."""
PRODUCT = 1024
"""Rows and columns of the matrices whose product shows the workspaces."""

Report = Callable[[dict[str, Any]], None]


def main() -> None:
    """Runs `constants` or `training`."""
    run_measurement({"constants": constants, "training": training}[sys.argv[1]])


def run_measurement(measure: Callable[[Report], None]) -> None:
    """Runs a measurement on the GPU with a function that reports it, one line of JSON at a time."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        silence_libraries()

        def report(measured: dict[str, Any]) -> None:
            out.write(json.dumps(measured) + "\n")
            out.flush()
            sys.stdin.readline()

        if not torch.cuda.is_available():
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
            report({"fault": f"torch {torch.__version__} (built with {built}) finds no GPU to use"})
            return
        measure(report)


def constants(report: Report) -> None:
    """Measures allocator and workspaces; imports no library that could allocate before."""
    report({"requests": [observe(sizes) for sizes in REQUESTS], **workspaces()})


def observe(sizes: Sequence[int]) -> dict[str, Any]:
    """Returns the bytes that the last of these requests holds, and those reserved for them."""
    torch.cuda.empty_cache()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    held: list[Any] = []
    for size in sizes:
        held.clear()
        held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    return {
        "sizes": list(sizes),
        "allocated_bytes": torch.cuda.memory_allocated() - allocated,
        "reserved_bytes": torch.cuda.memory_reserved() - reserved,
    }


def workspaces() -> dict[str, int]:
    """Returns the bytes that a thread's first product and first one with a bias leave allocated."""
    matrix = torch.ones(PRODUCT, PRODUCT, dtype=torch.float16, device="cuda")
    bias = torch.ones(PRODUCT, dtype=torch.float16, device="cuda")
    before = torch.cuda.memory_allocated()
    torch.nn.functional.linear(matrix, matrix)
    after_product = torch.cuda.memory_allocated()
    torch.nn.functional.linear(matrix, matrix, bias)
    after_bias = torch.cuda.memory_allocated()
    clear_cublas_workspaces()
    return {
        "cublas_workspace_bytes": after_product - before,
        "cublaslt_workspace_bytes": after_bias - after_product,
        "given_back_bytes": after_bias - torch.cuda.memory_allocated(),
    }


def training(report: Report) -> None:
    """Runs a small trial on texts of equal length and then on padded ones."""
    from vram_search.train import model as base_model

    job = trial_job()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = base_model.attach_adapter(load_random(CONFIG, Path(folder)), job)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for lengths in (EQUAL, PADDED):
        fit(model, job, lengths)
        torch.cuda.synchronize()
        report(
            {
                "versions": base_model.versions(),
                "config": CONFIG,
                "job": job.model_dump(mode="json"),
                "reserved_bytes": torch.cuda.memory_reserved(),
                "max_allocated_bytes": torch.cuda.max_memory_allocated(),
            }
        )


def trial_job() -> TrialJob:
    """Builds a job with the kernels of most trials: LoRA on all linear layers, 8-bit AdamW,
    checkpointing."""
    return TrialJob(
        number=0,
        hyperparameters=Hyperparameters(
            optim="adamw_8bit",
            lora_target="all",
            lora_rank=8,
            lora_alpha=16,
            cutoff_len=CUTOFF_LEN,
            batch_size=2,
            learning_rate=1e-4,
        ),
        target_modules=(
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ),
        plan=MemoryPlan(
            per_device_train_batch_size=2,
            gradient_accumulation_steps=1,
            gradient_checkpointing=True,
        ),
        training=TrainingSpec(max_steps=STEPS, rungs=()),
        eval_cutoff_len=CUTOFF_LEN,
        seed=1,
        adapter_folder="",
    )


def load_random(config: dict[str, Any], folder: Path) -> Any:
    """Loads a base model with random weights, drawn on the CPU and written to `folder` before.

    Kernels that only draw weights would otherwise count as context.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from vram_search.train import model as base_model
    from vram_search.train.device import compute_dtype

    torch.manual_seed(1)
    drawn = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=compute_dtype())
    drawn.save_pretrained(folder)
    rows = folder / "rows.json"
    rows.write_text("[]")  # a job names its rows; loading the base reads none
    return base_model.load_base(
        LoadJob(
            model_name_or_path=str(folder),
            random_weights=False,
            tokenizer=None,
            dataset=DatasetSpec(train=str(rows)),
            seed=1,
            cutoff_lens=(CUTOFF_LEN,),
            eval_cutoff_len=CUTOFF_LEN,
        )
    )


def fit(model: Any, job: TrialJob, lengths: Sequence[int]) -> None:
    """Trains the job's steps on texts with these lengths in tokens."""
    from vram_search.train.examples import TokenRow
    from vram_search.train.trainer import make_trainer

    rows = [TokenRow(tuple(range(length)), tuple(range(length))) for length in lengths]
    steps = job.training.max_steps
    assert steps is not None, "a short run counts steps"
    make_trainer(
        model, job, job.plan, rows, steps=steps, horizon=steps, pad_token_id=0, callbacks=[]
    ).train()


if __name__ == "__main__":
    main()
