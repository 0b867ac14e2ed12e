"""Trains a tiny model as a trial does: in the training process, with a probe, under watch."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from vram_search.gpu import (
    SYSMEM_FALLBACK_HINT,
    GpuReader,
    Monitor,
    MonitorReport,
    is_spilling,
)
from vram_search.protocol import (
    AnyEvent,
    Evaluated,
    Finished,
    LoadJob,
    Probed,
    Ready,
    Step,
    TrialJob,
)
from vram_search.selftest.check import Check, failed, passed
from vram_search.spec import Hyperparameters, MemoryPlan
from vram_search.spec.dataset import DatasetSpec
from vram_search.spec.study import TrainingSpec
from vram_search.units import format_bytes
from vram_search.worker.process import TrainingDiedError, log_tail
from vram_search.worker.resident import ResidentTrainer

NAMES = ("probe", "step_time")
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""A Llama of 4 million parameters; a step takes tenths of a second on a CPU."""
STEPS = 12
CUTOFF_LEN = 128
ROWS = 40
EVAL_ROWS = 8
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PATIENCE_SECONDS = 60.0
"""Silence after which the training counts as hung."""


class Run:
    """The events of the trial, and NVML's readings where there is a GPU."""

    def __init__(self) -> None:
        self.probed: Probed | None = None
        self.steps: list[Step] = []
        self.eval_loss: float | None = None
        self.finished: Finished | None = None
        self.watched: MonitorReport | None = None

    def take(self, event: AnyEvent) -> None:
        if isinstance(event, Probed):
            self.probed = event
        elif isinstance(event, Step):
            self.steps.append(event)
        elif isinstance(event, Evaluated):
            self.eval_loss = event.eval_loss


def check_training(reader: GpuReader | None) -> list[Check]:
    """Returns the checks `probe` and `step_time`.

    Raises:
        VramSearchError: the training process could not load the tiny model.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        log = folder / "training.log"
        uuid = reader.device().uuid if reader else None
        trainer = ResidentTrainer(load_job(folder), log, expandable_segments=False, gpu_uuid=uuid)
        run = Run()
        try:
            ready = trainer.ready()
            pid = trainer.pid
            assert pid is not None, "a process that is ready has a number"
            if reader is None:
                run.finished = trainer.run(trial_job(folder), run.take, lambda _: False)
            else:
                with Monitor(reader) as monitor:
                    monitor.start(pid)
                    run.finished = trainer.run(trial_job(folder), run.take, lambda _: False)
                    run.watched = monitor.stop()
        except TrainingDiedError as error:
            tail = log_tail(log)
            return [failed("probe", f"{error}\n{tail}", "`vram-search doctor` checks the packages")]
        finally:
            trainer.replace()
    found = probe_check(ready, run)
    return [found] if found.state == "failed" else [found, step_time_check(run, reader)]


def load_job(folder: Path) -> LoadJob:
    """Writes model and rows; some letters need Unicode."""
    shape = folder / "shape"
    shape.mkdir()
    (shape / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    rows = [
        {"instruction": f"What is {n} plus {n}? ¿Qué? 試験", "output": f"{n} plus {n} is {2 * n}."}
        for n in range(ROWS)
    ]
    file = folder / "Zeilen 試験.json"
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return LoadJob(
        model_name_or_path=str(shape),
        random_weights=True,
        tokenizer=None,
        dataset=DatasetSpec(train=str(file), val_size=EVAL_ROWS),
        seed=1,
        cutoff_lens=(CUTOFF_LEN,),
        eval_cutoff_len=CUTOFF_LEN,
    )


def trial_job(folder: Path) -> TrialJob:
    return TrialJob(
        number=0,
        hyperparameters=Hyperparameters(
            optim="adamw_8bit",
            lora_target="all",
            lora_rank=8,
            lora_alpha=16,
            cutoff_len=CUTOFF_LEN,
            batch_size=4,
            learning_rate=1e-2,
        ),
        target_modules=TARGETS,
        plan=MemoryPlan(
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            gradient_checkpointing=True,
        ),
        training=TrainingSpec(max_steps=STEPS, rungs=()),
        eval_cutoff_len=CUTOFF_LEN,
        seed=1,
        adapter_folder=str(folder / "adapter"),
        patience_seconds=PATIENCE_SECONDS,
    )


def probe_check(ready: Ready, run: Run) -> Check:
    """Checks that the trial completed, learnt, and stayed below its probe's peak."""
    finished, probed = run.finished, run.probed
    assert finished is not None
    losses = [step.loss for step in run.steps]
    peak = max((step.allocated_bytes or 0 for step in run.steps), default=0)
    figures = {
        "device": ready.device,
        "compute_dtype": ready.versions.get("compute_dtype"),
        "versions": ready.versions,
        "outcome": finished.outcome,
        "first_loss": losses[0] if losses else None,
        "eval_loss": run.eval_loss,
        "probe_allocated_bytes": probed.allocated_bytes if probed else None,
        "peak_allocated_bytes": peak or None,
        "import_seconds": ready.import_seconds,
        "load_seconds": ready.seconds,
        "probe_seconds": probed.seconds if probed else None,
    }
    if run.watched:
        figures["process_bytes_source"] = run.watched.process_bytes_source
        figures["peak_process_bytes"] = run.watched.peak_process_bytes
        figures["samples_per_second"] = run.watched.achieved_hz
    if finished.outcome != "complete" or probed is None:
        return failed(
            "probe",
            f"the trial of a tiny model ended as {finished.outcome}: {finished.message}",
            finished.remedy,
            **figures,
        )
    first = losses[0]
    if first is None or run.eval_loss is None or not run.eval_loss < first:
        return failed(
            "probe",
            f"a tiny model did not learn in {STEPS} steps: loss {_loss(first)} at the first step, "
            f"eval_loss {_loss(run.eval_loss)} at the end",
            "torch or bitsandbytes computes wrongly here: `vram-search doctor` shows the versions",
            **figures,
        )
    if probed.allocated_bytes is not None and peak > probed.allocated_bytes:
        return failed(
            "probe",
            f"the training took {format_bytes(peak)}, more than its probe's "
            f"{format_bytes(probed.allocated_bytes)}",
            "please report this: the probe must show the peak",
            **figures,
        )
    bound = ", below the probe's peak" if probed.allocated_bytes is not None else ""
    return passed(
        "probe",
        f"a tiny model trains on {ready.device} in {figures['compute_dtype']}{bound}: loss "
        f"{_loss(first)} to {_loss(run.eval_loss)}",
        **figures,
    )


def step_time_check(run: Run, reader: GpuReader | None) -> Check:
    """Checks that steps do not become slow on a full card."""
    seconds = [step.seconds for step in run.steps]
    usual = median(seconds)
    figures: dict[str, float | None] = {
        "median_seconds": usual,
        "slowest_seconds": max(seconds),
        "steps": len(seconds),
    }
    device, watched = (reader.device() if reader else None), run.watched
    if device is not None and watched is not None:
        figures["mean_sm_clock_mhz"] = watched.mean_sm_clock_mhz
        figures["least_sm_clock_mhz"] = watched.least_sm_clock_mhz
        used = watched.peak_device_bytes or 0
        if is_spilling(seconds, min(seconds), used, device.total_bytes, device.is_wddm):
            return failed(
                "step_time",
                f"steps became slow on a full card: {min(seconds):.3g} to {max(seconds):.3g} s",
                SYSMEM_FALLBACK_HINT,
                **figures,
            )
    return passed(
        "step_time",
        f"an optimizer step takes {usual:.3g} s (median of {len(seconds)}, slowest "
        f"{max(seconds):.3g} s)",
        **figures,
    )


def _loss(value: float | None) -> str:
    return f"{math.nan if value is None else value:.3f}"
