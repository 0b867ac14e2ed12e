"""A real calibration: repeatable to the byte, and what torch's source says. `make gpu`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vram_search.estimate.calibration import load_calibration, save_calibration
from vram_search.gpu import NvmlReader
from vram_search.spec.allocator_sizes import CUBLAS_WORKSPACE, CUBLAS_WORKSPACE_DATACENTER
from vram_search.worker.calibrate import COMMAND, calibrate, context_bytes, short_run

pytestmark = pytest.mark.gpu


def test_a_calibration_predicts_a_second_process_to_the_byte(home: Path) -> None:
    reader = NvmlReader()
    idle = reader.sample(None)
    found = calibrate(reader)
    save_calibration(found)
    print(found.as_dict())

    is_hopper = reader.device().compute_capability == "9.0"
    workspace = CUBLAS_WORKSPACE_DATACENTER if is_hopper else CUBLAS_WORKSPACE
    assert found.cublas_workspace_bytes == workspace
    assert found.allocator == "as expected", found.notes
    assert found.measured_over_predicted == pytest.approx(1, abs=0.05)

    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": reader.device().uuid}
    equal, padded = short_run([*COMMAND, "training"], environment, reader.sample)
    calibrated = load_calibration(reader.device().name, reader.device().total_bytes)
    assert calibrated is not None
    for reported, context in (
        (equal, calibrated.context_bytes),
        (padded, calibrated.padded_context_bytes),
    ):
        assert context_bytes(reported.sample, idle, reported.report["reserved_bytes"]) == context
