"""Measures a checkpoint on this machine: its seconds and bytes, and the losses after it.

    python -m bench.checkpoints --shape qwen2.5-3b --out checkpoints.jsonl

For each optimizer a training is run whole, cut off after a few steps, and continued from its
checkpoint. The base has random weights; the seconds, bytes and the comparison need no real ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from vram_search.data import Example
from vram_search.models import find_model
from vram_search.protocol import AnyEvent, LoadJob, Resumed, Step, TrialJob
from vram_search.spec import Hyperparameters, MemoryPlan
from vram_search.spec.dataset import DatasetSpec
from vram_search.spec.study import TrainingSpec
from vram_search.train import model as base_model
from vram_search.train.device import device_name
from vram_search.train.examples import encode
from vram_search.train.run import EncodedDataset, Trial
from vram_search.train.tokenizer import byte_tokenizer

OPTIMIZERS = ("adamw_8bit", "paged_adamw_8bit", "adamw_torch_fused", "lion_8bit", "adafactor")
STEPS, CUT_OFF_AFTER = 12, 4
CUTOFF_LEN, BATCH_SIZE, RANK = 512, 8, 16


class _CutOffError(Exception):
    """Ends a training in the middle."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen2.5-3b", help="a shipped shape")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, appended to")
    parser.add_argument("--optimizers", nargs="*", default=OPTIMIZERS)
    options = parser.parse_args()
    named = find_model(options.shape)
    targets = tuple(named.shape().target_modules("all"))
    base = base_model.load_base(
        LoadJob(
            model_name_or_path=str(named.config),
            random_weights=True,
            tokenizer=None,
            dataset=DatasetSpec.model_construct(),
            seed=1,
            cutoff_lens=(CUTOFF_LEN,),
            eval_cutoff_len=CUTOFF_LEN,
        )
    )
    tokenizer = byte_tokenizer()
    rows = [
        encode(Example((("user", f"{n}?"), ("assistant", "yes and no " * (20 + n)))), tokenizer)
        for n in range(40)
    ]
    encoded = EncodedDataset(rows[:32], rows[32:], tokenizer)
    where = {"device": device_name(), "shape": options.shape}
    with options.out.open("a", encoding="utf-8") as out:
        for optim in options.optimizers:
            found = measure(base, encoded, targets, optim)
            print(json.dumps({**where, "optim": optim, **found}), file=out, flush=True)


def measure(
    base: Any, encoded: EncodedDataset, targets: tuple[str, ...], optim: str
) -> dict[str, Any]:
    """Returns the figures of one optimizer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, _ = train(base, encoded, job(folder / "whole", targets, optim), None)
        cut_off = job(folder / "cut", targets, optim)
        _, trial = train(base, encoded, cut_off, CUT_OFF_AFTER)
        sizes = [f.stat().st_size for f in (folder / "cut").rglob("*") if f.is_file()]
        seconds = trial.seconds["save"]
        after, _ = train(base, encoded, cut_off, None)
    steps = sorted(after.keys() & whole.keys())
    return {
        "checkpoint_seconds": round(seconds, 3),
        "checkpoint_mib": round(sum(sizes) / 2**20, 1),
        "share_at_10_minutes": round(seconds / 600, 5),
        "compared_steps": [steps[0], steps[-1]],
        "largest_loss_difference": max(abs(after[s] - whole[s]) for s in steps),
        "largest_loss_difference_of_the_first_step": abs(after[steps[0]] - whole[steps[0]]),
    }


def job(folder: Path, targets: tuple[str, ...], optim: str) -> TrialJob:
    """A job whose first checkpoint is due at once; the next one waits for its share of time."""
    return TrialJob(
        number=0,
        hyperparameters=Hyperparameters(
            optim=optim,
            lora_target="all",
            lora_rank=RANK,
            lora_alpha=2 * RANK,
            cutoff_len=CUTOFF_LEN,
            batch_size=BATCH_SIZE,
            learning_rate=1e-4,
        ),
        target_modules=targets,
        plan=MemoryPlan(
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            gradient_checkpointing=False,
            per_device_eval_batch_size=2,
        ),
        training=TrainingSpec(max_steps=STEPS, rungs=(), checkpoint_every=1e-6),
        eval_cutoff_len=CUTOFF_LEN,
        seed=1,
        adapter_folder=str(folder / "adapter"),
        checkpoint_folder=str(folder / "checkpoints"),
    )


def train(
    base: Any, encoded: EncodedDataset, job: TrialJob, cut_off_after: int | None
) -> tuple[dict[int, float], Trial]:
    """Returns the losses by step, without those of a checkpoint."""
    losses: dict[int, float] = {}

    def send(event: AnyEvent) -> None:
        if isinstance(event, Resumed):
            losses.clear()
        if isinstance(event, Step) and event.loss is not None:
            losses[event.step] = event.loss
            if event.step == cut_off_after:
                raise _CutOffError

    trial = Trial(base, encoded, job, send, lambda: False, {"bench": "checkpoints"})
    try:
        finished = trial.run()
        if finished.outcome != "complete":
            raise SystemExit(f"{job.hyperparameters.optim}: {finished.message}")
    except _CutOffError:
        torch.manual_seed(987)  # a new process has other random numbers
    return losses, trial


if __name__ == "__main__":
    main()
