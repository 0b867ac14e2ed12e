"""Records what NVML says while a trial runs, for tests without its card. Needs a GPU.

    python -m bench.record.nvml tests/fixtures/nvml_h200.json

One short trial on a base of two layers; 25 readings a second, each with the trial's stage.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.gpu_trials.__main__ import SMALL_MODEL
from bench.gpu_trials.leak import LAYERS
from bench.gpu_trials.setup import (
    CUTOFFS,
    Bench,
    open_bench,
    point,
    progress,
    ready_on_gpu,
    write_report,
)
from vram_search.errors import VramSearchError
from vram_search.gpu import GpuReader
from vram_search.gpu.monitor import SAMPLES_PER_SECOND
from vram_search.protocol import AnyEvent, Stage
from vram_search.spec import MemoryPlan

STEPS = 6
SEED = 11


class Recording:
    """Reads a process's GPU from a thread until `stop`."""

    def __init__(self, reader: GpuReader, pid: int) -> None:
        self.reader, self.pid = reader, pid
        self.stage = "start"
        self.samples: list[dict[str, Any]] = []
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def listen(self, event: AnyEvent) -> None:
        if isinstance(event, Stage):
            self.stage = event.stage

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._stopping.wait(1 / SAMPLES_PER_SECOND):
            stage, sample = self.stage, self.reader.sample(self.pid)
            at = round(sample.at - self._began, 4)
            self.samples.append({"stage": stage, **asdict(replace(sample, at=at))})


def record(bench: Bench) -> dict[str, Any]:
    """The device and its readings while one trial runs from its probe to its end."""
    assert bench.reader is not None, "there is a GPU"
    trainer = bench.trainer(CUTOFFS)
    try:
        ready_on_gpu(bench, trainer)
        assert trainer.pid is not None
        recording = Recording(bench.reader, trainer.pid)
        hp = point("adamw_8bit", "all", batch_size=4, cutoff_len=CUTOFFS[-1])
        plan = MemoryPlan(
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            gradient_checkpointing=True,
        )
        try:
            job = bench.trial_job(0, hp, plan, STEPS)
            finished = trainer.run(job, recording.listen, lambda evaluated: False)
        finally:
            recording.stop()
    finally:
        trainer.replace()
    return {
        "device": {**asdict(bench.reader.device()), "uuid": "GPU-0"},
        "outcome": finished.outcome,
        "reserved_bytes": finished.reserved_bytes,
        "samples": recording.samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            found = record(open_bench(Path(name), SMALL_MODEL, SEED, layers=LAYERS))
    except VramSearchError as error:
        progress(f"error: {error.message}\nremedy: {error.remedy}")
        sys.exit(error.exit_code)
    write_report(out, found)
    peak = max((s["process_bytes"] or 0 for s in found["samples"]), default=math.nan)
    progress(f"{len(found['samples'])} readings, {found['outcome']}, peak of the process {peak}")


if __name__ == "__main__":
    main()
