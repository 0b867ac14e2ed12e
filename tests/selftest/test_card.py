"""The GPU's checks: NVML is replayed, and the short run is a real process that answers as told."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from vram_search.errors import VramSearchError
from vram_search.gpu import FakeReader, GpuDevice, GpuReadError, GpuSample
from vram_search.selftest.card import check_limits, check_nvml
from vram_search.selftest.check import Check
from vram_search.units import MIB

LINUX = GpuDevice(
    0, "GPU-1", "NVIDIA GeForce RTX 5060 Ti", 16_311 * MIB, "580.95", "13.0", "12.0", False, True
)
WINDOWS = replace(LINUX, is_wddm=True)
IDLE = GpuSample(0.0, 1000 * MIB, 1259 * MIB)
ANSWER = {
    "beyond_card": False,
    "beyond_cap": False,
    "held_bytes": 256 * MIB,
    "reserved_bytes": 256 * MIB,
    "cap_bytes": 512 * MIB,
}
CHILD = "import sys; print({line!r}, flush=True); sys.stdin.readline()"


def limits(device: GpuDevice, held: GpuSample, **changes: Any) -> dict[str, Check]:
    """The checks by name, after NVML went from IDLE to `held`."""
    child = CHILD.format(line=json.dumps({**ANSWER, **changes}))
    found = check_limits(FakeReader(device, [IDLE, held]), (sys.executable, "-c", child))
    return {check.name: check for check in found}


def rise(size: int, process_bytes: int | None = None) -> GpuSample:
    return replace(IDLE, device_bytes=IDLE.device_bytes + size, process_bytes=process_bytes)


def test_a_process_figure_is_what_linux_has() -> None:
    found = limits(LINUX, rise(600 * MIB, 600 * MIB))
    assert [check.state for check in found.values()] == ["passed"] * 3
    assert "a figure for each process" in found["wddm"].sentence


def test_a_container_hides_the_process_and_does_not_fail() -> None:
    found = limits(LINUX, rise(600 * MIB))["wddm"]
    assert (found.state, found.figures["process_bytes"]) == ("passed", None)
    assert "container" in found.sentence


def test_on_windows_the_rise_of_the_use_counts() -> None:
    found = limits(WINDOWS, rise(600 * MIB))["wddm"]
    assert found.state == "passed"
    assert "600 MiB for 256 MiB" in found.sentence


def test_a_use_that_does_not_rise_fails_on_windows() -> None:
    found = limits(WINDOWS, rise(10 * MIB))["wddm"]
    assert found.state == "failed"
    assert "rose by 10 MiB" in found.sentence


def test_memory_beyond_the_card_is_a_failure_with_the_setting_that_mends_it() -> None:
    found = limits(WINDOWS, rise(600 * MIB), beyond_card=True)["spill_policy"]
    assert found.state == "failed"
    assert "Prefer No Sysmem Fallback" in found.remedy


def test_a_cap_that_does_not_hold_is_a_failure() -> None:
    assert limits(LINUX, rise(0, MIB), beyond_cap=True)["allocator_cap"].state == "failed"


def test_a_torch_without_cuda_is_named() -> None:
    child = CHILD.format(line=json.dumps({"fault": "torch finds no GPU to use"}))
    with pytest.raises(VramSearchError, match="torch finds no GPU to use"):
        check_limits(FakeReader(LINUX, [IDLE]), (sys.executable, "-c", child))


def test_nvml_shows_the_card_as_studies_name_it() -> None:
    found = check_nvml(FakeReader(LINUX, [IDLE]))
    assert (found.state, found.figures["card"]) == ("passed", "rtx-5060-ti-16gb")
    assert "driver 580.95" in found.sentence


def test_more_use_than_memory_is_impossible() -> None:
    found = check_nvml(FakeReader(LINUX, [replace(IDLE, occupied_bytes=20_000 * MIB)]))
    assert found.state == "failed"
    assert "impossible" in found.sentence


def test_a_gpu_that_stops_answering_is_an_error() -> None:
    with pytest.raises(GpuReadError):
        check_nvml(FakeReader(LINUX, [IDLE], raise_at=[3]))
