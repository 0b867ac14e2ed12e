"""NVML is read faithfully: what it does not say is None, and a missing GPU says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from vram_search.gpu import GpuFault, GpuReadError, NoGpuError, NvmlReader, nvml, open_reader
from vram_search.units import GIB, MIB

H200_BYTES = 143_771 * MIB
RTX_5060_TI_BYTES = 16_311 * MIB
RTX_5060_TI_RESERVED_BYTES = 259 * MIB
UNKNOWN_BYTES = 2**64 - 1
"""What NVML itself writes for "not available"; newer nvidia-ml-py turn it into None."""


def process(pid: int, used_bytes: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=used_bytes)


class FakeNvml:
    """A pynvml with the real constants and errors, and cards that live here."""

    def __init__(self, *totals: int, wddm: bool = False) -> None:
        self.totals = totals
        self.wddm = wddm
        self.compute: list[SimpleNamespace] = []
        self.graphics: list[SimpleNamespace] = []
        self.used, self.reserved = 1000 * MIB, RTX_5060_TI_RESERVED_BYTES
        self.fails: dict[str, int] = {}
        """Names of functions that fail, with the NVML code they fail with."""
        self.inits = 0
        self.xids: list[int] = []
        """Errors that the driver reports next."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("NVML", "nvmlMemory_v2", "nvmlEventType")):
            return getattr(pynvml, name)
        answers: dict[str, Any] = {
            "nvmlInit": self._init,
            "nvmlShutdown": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: "580.95.05",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 12080,
            "nvmlDeviceGetCount": lambda: len(self.totals),
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetHandleByUUID": lambda uuid: int(uuid[4]) - 1,
            "nvmlDeviceGetIndex": lambda handle: handle,
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle + 1}fce55b3-0000",
            "nvmlDeviceGetName": lambda handle: f"card {handle}",
            "nvmlDeviceGetMemoryInfo": self._memory,
            "nvmlDeviceGetCudaComputeCapability": lambda handle: (12, 0),
            "nvmlDeviceGetCurrentDriverModel": self._driver_model,
            "nvmlDeviceGetDisplayActive": lambda handle: 1,
            "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=93, memory=40),
            "nvmlDeviceGetPowerUsage": lambda handle: 151_500,
            "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
            "nvmlDeviceGetClockInfo": lambda handle, kind: 2407,
            "nvmlEventSetCreate": lambda: "a set of events",
            "nvmlDeviceRegisterEvents": lambda handle, types, events: None,
            "nvmlEventSetWait_v2": self._next_event,
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: self.compute,
            "nvmlDeviceGetGraphicsRunningProcesses": lambda handle: self.graphics,
        }

        def call(*arguments: Any) -> Any:
            if name in self.fails:
                raise pynvml.NVMLError(self.fails[name])
            return answers[name](*arguments)

        return call

    def _init(self) -> None:
        self.inits += 1

    def _memory(self, handle: int, version: int | None = None) -> SimpleNamespace:
        total = self.totals[handle]
        free = total - self.used - self.reserved
        if version is None:
            return SimpleNamespace(total=total, free=free, used=self.used + self.reserved)
        if "v2" in self.fails:
            raise pynvml.NVMLError(self.fails["v2"])
        return SimpleNamespace(total=total, free=free, used=self.used, reserved=self.reserved)

    def _next_event(self, events: str, timeout: int) -> SimpleNamespace:
        if not self.xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return SimpleNamespace(eventData=self.xids.pop(0))

    def _driver_model(self, handle: int) -> int:
        if not self.wddm:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return int(pynvml.NVML_DRIVER_WDDM)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Puts a FakeNvml in pynvml's place, on a machine that is not WSL2."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvml, "_WSL_GPU", tmp_path / "dxg")

    def put(fake: FakeNvml) -> FakeNvml:
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return put


def test_importing_the_room_loads_neither_pynvml_nor_torch() -> None:
    code = "import sys, vram_search.gpu; sys.exit(bool({'pynvml', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_linux_card_is_described_with_its_units(install: Any) -> None:
    install(FakeNvml(H200_BYTES))
    device = NvmlReader().device()
    assert device.total_bytes == 143_771 * 1024**2
    assert (device.driver_version, device.cuda_driver_version) == ("580.95.05", "12.8")
    assert (device.compute_capability, device.is_wddm, device.display_active) == (
        "12.0",
        False,
        True,
    )


def test_a_sample_carries_watts_celsius_and_the_process_of_that_pid_only(install: Any) -> None:
    fake = install(FakeNvml(H200_BYTES))
    fake.compute = [process(41, 700 * MIB), process(42, 6_656 * MIB)]
    sample = NvmlReader().sample(42)
    assert sample.process_bytes == 6_656 * MIB
    assert (sample.power_watts, sample.temperature_celsius) == (151.5, 61)
    assert (sample.utilization_percent, sample.sm_clock_mhz) == (93, 2407)


def test_no_process_figure_without_a_pid(install: Any) -> None:
    fake = install(FakeNvml(H200_BYTES))
    fake.compute = [process(41, 700 * MIB)]
    assert NvmlReader().sample(None).process_bytes is None


def test_entries_of_one_pid_add_up(install: Any) -> None:
    fake = install(FakeNvml(H200_BYTES))
    fake.compute = [process(42, 100), process(42, 20)]
    assert NvmlReader().sample(42).process_bytes == 120


def test_a_process_that_computes_and_draws_is_not_counted_twice(install: Any) -> None:
    fake = install(FakeNvml(RTX_5060_TI_BYTES))
    fake.compute = fake.graphics = [process(42, 900 * MIB)]
    assert NvmlReader().sample(42).process_bytes == 900 * MIB


def test_a_process_in_the_graphics_list_alone_is_found(install: Any) -> None:
    fake = install(FakeNvml(RTX_5060_TI_BYTES))
    fake.graphics = [process(42, 900 * MIB)]
    assert NvmlReader().sample(42).process_bytes == 900 * MIB


def test_in_a_container_the_only_process_of_the_host_is_not_taken_for_ours(install: Any) -> None:
    fake = install(FakeNvml(H200_BYTES))
    fake.compute = [process(31_337, 6_656 * MIB)]
    sample = NvmlReader().sample(42)
    assert sample.process_bytes is None
    assert sample.device_bytes == 1000 * MIB


@pytest.mark.parametrize("unknown", [None, UNKNOWN_BYTES])
def test_on_wddm_process_bytes_are_unknown_never_zero(install: Any, unknown: int | None) -> None:
    fake = install(FakeNvml(RTX_5060_TI_BYTES, wddm=True))
    fake.compute = [process(42, unknown)]
    reader = NvmlReader()
    assert reader.device().is_wddm
    assert reader.sample(42).process_bytes is None


def test_below_wsl2_windows_manages_the_memory(
    install: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(FakeNvml(RTX_5060_TI_BYTES))
    monkeypatch.setattr(nvml, "_WSL_GPU", tmp_path)
    assert NvmlReader().device().is_wddm


def test_the_drivers_own_share_is_occupied_but_not_used(install: Any) -> None:
    install(FakeNvml(RTX_5060_TI_BYTES))
    sample = NvmlReader().sample(None)
    assert sample.device_bytes == 1000 * MIB
    assert sample.occupied_bytes == (1000 + 259) * MIB


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH]
)
def test_an_old_driver_is_read_with_the_first_memory_call(install: Any, code: int) -> None:
    install(FakeNvml(RTX_5060_TI_BYTES)).fails["v2"] = code
    reader = NvmlReader()
    assert reader.device().total_bytes == RTX_5060_TI_BYTES
    assert reader.sample(None).occupied_bytes == (1000 + 259) * MIB


def test_what_a_card_cannot_measure_is_none(install: Any) -> None:
    fake = install(FakeNvml(H200_BYTES))
    for name in ("UtilizationRates", "PowerUsage", "Temperature", "ClockInfo", "DisplayActive"):
        fake.fails[f"nvmlDeviceGet{name}"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    reader = NvmlReader()
    sample = reader.sample(None)
    assert sample.utilization_percent is None
    assert sample.power_watts is None
    assert sample.temperature_celsius is None
    assert sample.sm_clock_mhz is None
    assert reader.device().display_active is None


def test_a_lost_gpu_raises_and_a_reset_one_is_opened_anew(install: Any) -> None:
    fake = install(FakeNvml(H200_BYTES))
    reader = NvmlReader()
    fake.fails["nvmlDeviceGetPowerUsage"] = pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(GpuReadError, match="GPU is lost"):
        reader.sample(None)
    fake.fails.clear()
    assert reader.sample(None).power_watts == 151.5
    assert fake.inits == 2


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver is installed"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "updated while running"),
        (pynvml.NVML_ERROR_TIMEOUT, "NVML failed: Timeout"),
    ],
)
def test_no_driver_means_no_reader_and_a_reason(install: Any, code: int, reason: str) -> None:
    install(FakeNvml(H200_BYTES)).fails["nvmlInit"] = code
    assert open_reader() is None
    with pytest.raises(NoGpuError, match=reason) as caught:
        NvmlReader()
    assert caught.value.remedy


def test_a_driver_without_devices_means_no_reader_and_a_reason(install: Any) -> None:
    install(FakeNvml())
    assert open_reader() is None
    with pytest.raises(NoGpuError, match="lists no GPU"):
        NvmlReader()


@pytest.mark.parametrize(
    ("visible", "index", "expected"),
    [
        ("1", 0, 1),
        ("2,0", 0, 2),
        ("2,0", 1, 0),
        (" 1 , 2", 0, 1),
        ("GPU-3fce55b3-0000", 0, 2),
        ("GPU-2f", 0, 1),
        ("1,-1,2", 0, 1),
    ],
)
def test_the_device_is_the_one_cuda_would_see(
    install: Any, monkeypatch: pytest.MonkeyPatch, visible: str, index: int, expected: int
) -> None:
    install(FakeNvml(H200_BYTES, RTX_5060_TI_BYTES, H200_BYTES))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert NvmlReader(index).device().index == expected


@pytest.mark.parametrize(
    ("visible", "index"), [("", 0), ("-1", 0), ("NoDevFiles", 0), ("1,-1,2", 1), ("1", 1)]
)
def test_hidden_gpus_are_not_read(
    install: Any, monkeypatch: pytest.MonkeyPatch, visible: str, index: int
) -> None:
    install(FakeNvml(H200_BYTES, RTX_5060_TI_BYTES, H200_BYTES))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert open_reader(index) is None
    with pytest.raises(NoGpuError, match="CUDA_VISIBLE_DEVICES is"):
        NvmlReader(index)


@pytest.mark.parametrize("visible", ["3", "GPU-9"])
def test_a_visible_device_that_is_not_here_is_named(
    install: Any, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    install(FakeNvml(H200_BYTES))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(NoGpuError, match=visible):
        NvmlReader()


def test_an_index_beyond_the_cards_is_refused(install: Any) -> None:
    install(FakeNvml(H200_BYTES))
    with pytest.raises(NoGpuError, match="GPU 1 was asked for, but 1 of 1 are visible"):
        NvmlReader(1)


def test_gpu_that_fell_off_the_bus_is_a_fatal_fault_in_nvmls_words(install: Any) -> None:
    fake = install(FakeNvml(16 * GIB))
    reader = NvmlReader()
    assert reader.fault() is None
    fake.xids = [79]
    fake.fails["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_GPU_IS_LOST
    assert reader.fault() == GpuFault("card 0 (GPU 0): GPU is lost Xid 79", is_fatal=True)


def test_gpu_that_is_not_found_again_after_a_failed_reading_is_a_fatal_fault(install: Any) -> None:
    fake = install(FakeNvml(16 * GIB))
    reader = NvmlReader()
    fake.fails["nvmlDeviceGetPowerUsage"] = pynvml.NVML_ERROR_UNKNOWN
    with pytest.raises(GpuReadError):
        reader.sample(None)
    fake.fails["nvmlDeviceGetHandleByUUID"] = pynvml.NVML_ERROR_NOT_FOUND
    fault = reader.fault()
    assert fault is not None and fault.is_fatal


@pytest.mark.parametrize(
    ("xids", "is_fatal"), [([31], False), ([13, 45], False), ([48], True), ([45, 119], True)]
)
def test_xids_that_a_program_may_cause_are_no_fatal_fault(
    install: Any, xids: list[int], is_fatal: bool
) -> None:
    fake = install(FakeNvml(16 * GIB))
    reader = NvmlReader()
    reader.fault()
    fake.xids = list(xids)
    fault = reader.fault()
    assert fault is not None and fault.is_fatal == is_fatal
    assert fault.message == "card 0 (GPU 0) reported" + "".join(f" Xid {xid}" for xid in xids)
    assert reader.fault() is None, "each is reported once"


def test_driver_without_events_reports_no_fault(install: Any) -> None:
    fake = install(FakeNvml(16 * GIB))
    fake.fails["nvmlEventSetCreate"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert NvmlReader().fault() is None
