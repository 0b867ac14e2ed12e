"""Calibrates this machine's card with short runs in new processes, while NVML is read from outside.

The runs themselves are in `train/calibrate.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, Any, NamedTuple

from vram_search.errors import InputError, VramSearchError
from vram_search.estimate.calibration import Calibration
from vram_search.estimate.memory.allocator import CachingAllocator
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.workload import Workload
from vram_search.gpu import GpuDevice, GpuReader, GpuSample
from vram_search.protocol import TrialJob
from vram_search.spec.base import Spec
from vram_search.spec.shape import parse_shape
from vram_search.units import format_bytes

COMMAND = (sys.executable, "-m", "vram_search.train.calibrate")
RUN_SECONDS = 60.0
"""Seconds after which a short run counts as hung."""
PREDICTION_TOLERANCE = 0.05
"""Relative difference from the prediction above which a short training is noted."""
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Variables that a trial's plan sets, not the shell (torch `c10/cuda/CUDAAllocatorConfig.cpp`)."""
_LOG_LINES_SHOWN = 5


class Requests(Spec):
    """Bytes requested from torch's allocator, each freed in turn, and the last one's size."""

    sizes: tuple[int, ...]
    allocated_bytes: int
    reserved_bytes: int


class Constants(Spec):
    """The report of the run `constants`."""

    requests: tuple[Requests, ...]
    cublas_workspace_bytes: int
    cublaslt_workspace_bytes: int
    given_back_bytes: int
    """Bytes that torch freed when it was asked to free its workspaces."""


class Trained(Spec):
    """The report of the run `training` after its steps on one kind of texts."""

    versions: dict[str, str]
    config: dict[str, Any]
    job: TrialJob
    reserved_bytes: int
    max_allocated_bytes: int


class Reported(NamedTuple):
    """A line of a short run and NVML's reading at that moment."""

    report: dict[str, Any]
    sample: GpuSample


def calibrate(
    reader: GpuReader,
    progress: Callable[[str], None] = lambda stage: None,
    command: Sequence[str] = COMMAND,
) -> Calibration:
    """Measures the card; stores nothing.

    Args:
        progress: called with each stage as it begins.
        command: a short run's command line, without its name.

    Raises:
        InputError: torch cannot use the card.
        VramSearchError: a short run died, hung, or was disturbed.
    """
    device = reader.device()
    environment = short_run_environment(device)
    idle = reader.sample(None)
    progress("allocator and workspaces")
    lines = short_run([*command, "constants"], environment, reader.sample)
    progress("short trainings, equal texts and padded ones")
    lines += short_run([*command, "training"], environment, reader.sample)
    try:
        of_constants, of_equal, of_padded = lines
        constants = Constants.model_validate(of_constants.report)
        equal = Trained.model_validate(of_equal.report)
        padded = Trained.model_validate(of_padded.report)
    except ValueError as error:
        raise VramSearchError(f"the short runs reported something else: {error}") from None

    hardware = Hardware(
        context_bytes=context_bytes(of_equal.sample, idle, equal.reserved_bytes),
        cublas_workspace_bytes=constants.cublas_workspace_bytes,
        cublaslt_workspace_bytes=constants.cublaslt_workspace_bytes,
    )
    differences = allocator_differences(constants.requests)
    ratio = equal.max_allocated_bytes / predict(workload_of(equal), hardware).allocated_bytes
    is_own_figure = of_equal.sample.process_bytes is not None
    return Calibration(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        card_name=device.name,
        total_bytes=device.total_bytes,
        driver=device.driver_version,
        versions=equal.versions,
        context_bytes=hardware.context_bytes,
        padded_context_bytes=context_bytes(of_padded.sample, idle, padded.reserved_bytes),
        context_source="process" if is_own_figure else "device",
        cublas_workspace_bytes=hardware.cublas_workspace_bytes,
        cublaslt_workspace_bytes=hardware.cublaslt_workspace_bytes,
        allocator="differs" if differences else "as expected",
        measured_over_predicted=ratio,
        notes=(*differences, *_notes(constants, ratio, is_own_figure=is_own_figure)),
    )


def short_run_environment(device: GpuDevice) -> dict[str, str]:
    """Returns our environment variables with this device alone and torch's default allocator."""
    environment = {k: v for k, v in os.environ.items() if k not in ALLOCATOR_VARIABLES}
    environment["CUDA_VISIBLE_DEVICES"] = device.uuid
    return environment


def context_bytes(sample: GpuSample, idle: GpuSample, reserved_bytes: int) -> int:
    """Returns the bytes that a process holds in addition to torch's reserved bytes.

    If NVML has no figure for the process, this is the rise of the device's use since `idle`.

    Raises:
        VramSearchError: the figure is impossible, so other programs changed their use meanwhile.
    """
    process_bytes = sample.process_bytes
    if process_bytes is None:
        process_bytes = sample.device_bytes - idle.device_bytes
    context = process_bytes - reserved_bytes
    if context <= 0:
        raise VramSearchError(
            f"the process took {format_bytes(process_bytes)} by NVML, but torch reserved "
            f"{format_bytes(reserved_bytes)}: another program gave memory back meanwhile",
            "Close what else uses the GPU (`nvidia-smi` lists it), then calibrate again.",
        )
    return context


def allocator_differences(observed: Sequence[Requests]) -> list[str]:
    """Returns the requests for which torch's allocator and its simulation differ."""
    found = []
    for one in observed:
        allocator, block = CachingAllocator(), None
        for size in one.sizes:
            if block is not None:
                allocator.free(block)
            block = allocator.allocate(size)
        expected = (allocator.allocated, allocator.reserved)
        if (one.allocated_bytes, one.reserved_bytes) != expected:
            found.append(
                f"requests of {', then '.join(map(str, one.sizes))} bytes hold "
                f"{one.allocated_bytes} of {one.reserved_bytes} reserved, "
                f"expected {expected[0]} of {expected[1]}"
            )
    return found


def workload_of(trained: Trained) -> Workload:
    """Returns the short training as the workload that the estimate takes."""
    job = trained.job
    return Workload(
        shape=parse_shape(trained.config, "the short training"),
        lora_modules=job.target_modules,
        lora_rank=job.hyperparameters.lora_rank,
        optimizer=job.hyperparameters.optim,
        per_device_train_batch_size=job.plan.per_device_train_batch_size,
        cutoff_len=job.hyperparameters.cutoff_len,
        gradient_checkpointing=job.plan.gradient_checkpointing,
    )


def _notes(constants: Constants, ratio: float, *, is_own_figure: bool) -> list[str]:
    notes = []
    if not is_own_figure:
        notes.append(
            "NVML gives no figure for a process here: the context is by how much the device's use "
            "rose, on the assumption that nothing else came or went"
        )
    kept = constants.cublas_workspace_bytes + constants.cublaslt_workspace_bytes
    if constants.given_back_bytes != kept:
        notes.append(
            f"torch gave back {constants.given_back_bytes} of {kept} bytes that count as workspaces"
        )
    if abs(ratio - 1) > PREDICTION_TOLERANCE:
        notes.append(
            f"the short training took {ratio:.3f} times the allocated bytes that were predicted: "
            "this stack may be newer than the estimate's formulas"
        )
    return notes


def short_run(
    command: Sequence[str],
    environment: Mapping[str, str],
    sample: Callable[[int], GpuSample],
    timeout_seconds: float = RUN_SECONDS,
) -> list[Reported]:
    """Returns the reports of one short run, which waits while NVML is read for each of them.

    Args:
        sample: returns NVML's reading of a process, given its pid.

    Raises:
        InputError: the run reports that torch cannot use the card.
        VramSearchError: it died, hung or sent an invalid message.
    """
    hung = threading.Event()
    reported = []
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,  # nothing is left to flush where the run died
            env=environment,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None

        def give_up() -> None:
            hung.set()
            process.kill()

        watchdog = threading.Timer(timeout_seconds, give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            for line in process.stdout:
                reported.append(Reported(_parse(line), sample(process.pid)))
                with suppress(OSError):  # it died: its exit code says more
                    process.stdin.write(b"\n")
            code = process.wait()
        finally:
            watchdog.cancel()
            process.kill()
        if hung.is_set():
            raise VramSearchError(
                f"a short run hung: it took longer than {timeout_seconds:.0f} s",
                "A first start reads gigabytes of libraries: try once more.",
            )
        if code:
            raise _died(code, log)
    return reported


def _parse(line: bytes) -> dict[str, Any]:
    try:
        report = json.loads(line)
    except ValueError:
        report = None
    if not isinstance(report, dict):
        raise VramSearchError(f"a short run sent an invalid message: {line[:80]!r}")
    if "fault" in report:
        raise InputError(
            str(report["fault"]), "Install a torch that is built for this GPU and its driver."
        )
    return report


def _died(code: int, log: IO[bytes]) -> VramSearchError:
    log.seek(0)
    lines = log.read().decode("utf-8", errors="replace").strip().splitlines()
    text = "\n".join(lines[-_LOG_LINES_SHOWN:])
    if "out of memory" in text:
        return VramSearchError(
            "the card is full: a short run needs about 2 GiB of it",
            "Close what else uses the GPU (`nvidia-smi` lists it), then calibrate again.",
        )
    how = f"was killed (signal {-code})" if code < 0 else f"ended with code {code}"
    return VramSearchError(
        f"a short run {how}: {text}", "`vram-search doctor` checks the packages."
    )
