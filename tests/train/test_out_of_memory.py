"""An out-of-memory is recognised, and its record says where it happened and what was allocated."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from vram_search.protocol import AnyEvent, Finished, TrialJob
from vram_search.spec import MemoryPlan
from vram_search.spec.study import TrainingSpec
from vram_search.train import convert, faults, health
from vram_search.train import model as base_model
from vram_search.train.__main__ import examined, explain
from vram_search.train.examples import cut
from vram_search.train.faults import (
    DivergedError,
    first_sentences,
    is_out_of_memory,
    requested_bytes,
)
from vram_search.train.health import Health
from vram_search.train.run import EncodedDataset, Trial
from vram_search.units import GIB, MIB

MakeJob = Callable[..., TrialJob]
CUDA = "CUDA out of memory. Tried to allocate 274.00 MiB. GPU 0 has a total capacity of 15.93 GiB"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate"), True),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
            ),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), False),
        (DivergedError("out of memory is not what happened"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_requested_bytes_are_read_from_the_message() -> None:
    assert requested_bytes(CUDA) == 274 * MIB
    assert requested_bytes("CUDA out of memory. Tried to allocate 512 bytes.") == 512
    assert requested_bytes("you tried to allocate 4096 bytes") == 4096
    assert requested_bytes("no figure here") is None
    assert first_sentences(CUDA) == "CUDA out of memory. Tried to allocate 274.00 MiB"


def run_out_of_memory(
    base: Any, encoded: EncodedDataset, job: TrialJob, forward_pass: int
) -> tuple[Finished, int]:
    """The trial whose given forward pass, counted from 1, is refused memory; and how many were
    begun."""
    passes = 0

    def refuse(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == forward_pass:
            raise torch.OutOfMemoryError(CUDA)

    events: list[AnyEvent] = []
    hook = base.register_forward_pre_hook(refuse)
    try:
        return Trial(base, encoded, job, events.append, lambda: False).run(), passes
    finally:
        hook.remove()


# The probe on a CPU: two steps of one row, an evaluation batch of one row, a third step. Then two
# steps of two micro-batches of two rows, each followed by two evaluation batches of two rows.
@pytest.mark.parametrize(
    ("forward_pass", "stage", "step", "rows", "is_longest"),
    [
        (2, "probe", 2, 1, True),
        (3, "probe", 2, 1, True),
        (6, "train", 1, 2, False),
        (7, "eval", 1, 2, True),
        (9, "train", 2, 2, False),
        (11, "eval", 2, 2, True),
    ],
)
def test_out_of_memory_tells_stage_step_and_batch(
    base: Any,
    encoded: EncodedDataset,
    make_job: MakeJob,
    forward_pass: int,
    stage: str,
    step: int,
    rows: int,
    is_longest: bool,
) -> None:
    job = make_job(training=TrainingSpec(max_steps=2, rungs=(0.5,)))
    finished, passes = run_out_of_memory(base, encoded, job, forward_pass)
    assert passes == forward_pass
    assert (finished.outcome, finished.stage, finished.step) == ("oom", stage, step)
    assert finished.requested_bytes == 274 * MIB
    assert finished.batch_shape is not None and finished.batch_shape[0] == rows
    of_stage = encoded.eval if stage == "eval" or forward_pass == 3 else encoded.train
    lengths = {len(cut(row, 128).input_ids) for row in of_stage}
    assert finished.batch_shape[1] in lengths
    assert not is_longest or finished.batch_shape[1] == max(lengths)


def test_out_of_memory_names_what_was_allocated(
    base: Any, encoded: EncodedDataset, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "allocated_bytes", lambda: GIB)
    job = make_job(
        plan=MemoryPlan(
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            gradient_checkpointing=False,
        ),
        training=TrainingSpec(max_steps=2, rungs=()),
    )
    finished, _ = run_out_of_memory(base, encoded, job, 8)  # the second micro-batch of step 2
    assert {"base_weights", "adapter", "gradients", "optimizer", "other"} == set(finished.parts)
    assert sum(finished.parts.values()) == GIB
    # Rank 4 on q and v of two layers: 2 x 4 x ((64 + 64) + (64 + 32)) fp32 weights.
    assert finished.parts["adapter"] == finished.parts["gradients"] == 4 * 1792
    assert finished.parts["optimizer"] >= 2 * 4 * 1792


def test_out_of_memory_without_a_gpu_names_no_parts(
    base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    finished, _ = run_out_of_memory(base, encoded, make_job(), 1)
    assert finished.outcome == "oom" and finished.parts == {}


def test_out_of_memory_while_the_process_is_examined_says_so(
    base: Any, encoded: EncodedDataset, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(base: Any) -> list[int]:
        raise torch.OutOfMemoryError(CUDA)

    watched = Health(base)
    monkeypatch.setattr(health, "checksums", refuse)
    job = make_job(training=TrainingSpec(max_steps=1, rungs=()))
    finished = examined(Trial(base, encoded, job, lambda event: None, lambda: False), watched)
    assert (finished.outcome, finished.stage) == ("oom", "check")
    assert finished.requested_bytes == 274 * MIB


def test_out_of_memory_while_loading_says_what_was_asked_for_and_what_was_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base_model, "allocated_bytes", lambda: 3 * GIB)
    fault = explain(torch.OutOfMemoryError(CUDA))
    assert fault is not None and fault.is_passing
    assert "while the base model was loaded" in fault.message
    assert "Tried to allocate 274.00 MiB" in fault.message and "3.00 GiB" in fault.message
    assert explain(RuntimeError("shape mismatch")) is None


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
    ],
)
def test_full_disk_is_told_by_a_process_that_trains_or_converts(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = explain(error)
    assert fault is not None and "the disk is full" in fault.message

    def fail(*_: object) -> None:
        raise error

    job = SimpleNamespace(merge=SimpleNamespace(target=str(Path("models") / "merged")))
    parser = SimpleNamespace(validate_json=lambda _: job)
    monkeypatch.setattr(convert, "CONVERT_JOB", parser)
    monkeypatch.setattr("vram_search.train.merge.merge", fail)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    convert.main(Path(__file__))
    assert '"event":"fault","message":"the disk of models is full' in capsys.readouterr().out
