"""The one interface to NVML: reads the first GPU that CUDA would see."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from vram_search.gpu.reader import (
    GpuDevice,
    GpuFault,
    GpuReader,
    GpuReadError,
    GpuSample,
    NoDriverError,
    NoGpuError,
)

_WSL_GPU = Path("/dev/dxg")
"""Exists below WSL2 only: a Linux whose GPU memory Windows manages."""

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Xids that a program may cause; the card goes on. Source: NVIDIA/k8s-device-plugin,
`internal/rm/health.go`, which skips the same ones; https://docs.nvidia.com/deploy/xid-errors."""
_ON_CPU = "Without a GPU studies train on the CPU and bytes are predicted."


def open_reader(index: int = 0) -> GpuReader | None:
    """Opens a reader of the `index`-th visible GPU; None if there is no GPU.

    To say why there is none, open `NvmlReader(index)` and print its `NoGpuError`.
    """
    try:
        return NvmlReader(index)
    except NoGpuError:
        return None


def visible_entries(cuda_visible_devices: str | None) -> list[str] | None:
    """Entries of CUDA_VISIBLE_DEVICES up to the first invalid one; None when all are visible.

    Source: CUDA C Programming Guide, "CUDA Environment Variables".
    """
    if cuda_visible_devices is None:
        return None
    entries: list[str] = []
    for entry in (part.strip() for part in cuda_visible_devices.split(",")):
        if not entry.isdecimal() and not entry.startswith(("GPU-", "MIG-")):
            break
        entries.append(entry)
    return entries


def _xid_words(xids: Iterable[int]) -> str:
    return "".join(f" Xid {xid}" for xid in dict.fromkeys(xids))


class NvmlReader:
    """Reads one GPU through nvidia-ml-py, loaded when the first reader opens.

    Args:
        index: the device's place among those CUDA_VISIBLE_DEVICES leaves visible.

    Raises:
        NoGpuError: no driver, no device, or none visible.
    """

    def __init__(self, index: int = 0) -> None:
        nvml = importlib.import_module("pynvml")
        self._nvml: ModuleType = nvml
        self._not_available = {
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_NO_PERMISSION,
            nvml.NVML_ERROR_NOT_FOUND,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        }
        self._gone = {
            nvml.NVML_ERROR_GPU_IS_LOST,
            nvml.NVML_ERROR_RESET_REQUIRED,
            nvml.NVML_ERROR_GPU_NOT_FOUND,
            nvml.NVML_ERROR_NOT_FOUND,
        }
        """Codes by which NVML answers once the card has fallen off the bus or must be reset."""
        try:
            nvml.nvmlInit()
            self._handle = self._find(index)
            self._device = self._read_device(index)
        except nvml.NVMLError as error:
            raise self._no_gpu(error) from error
        self._is_open = True
        self._events: Any = None

    def device(self) -> GpuDevice:
        return self._device

    def sample(self, pid: int | None) -> GpuSample:
        """Reads the GPU now.

        `device_bytes` is `used` of nvmlDeviceGetMemoryInfo_v2, which leaves out the driver's
        reserved memory; drivers before R510 know v1 only, whose `used` holds it too.

        Raises:
            GpuReadError: NVML failed; the next call opens it again.
        """
        nvml, optional = self._nvml, self._optional
        try:
            self._reopen_after_failure()
            handle = self._handle
            memory = self._memory()
            rates = optional(nvml.nvmlDeviceGetUtilizationRates, handle)
            milliwatts = optional(nvml.nvmlDeviceGetPowerUsage, handle)
            return GpuSample(
                at=time.monotonic(),
                device_bytes=int(memory.used),
                occupied_bytes=int(memory.total - memory.free),
                process_bytes=None if pid is None else self._process_bytes(pid),
                utilization_percent=None if rates is None else int(rates.gpu),
                power_watts=None if milliwatts is None else milliwatts / 1000,
                temperature_celsius=optional(
                    nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU
                ),
                sm_clock_mhz=optional(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            )
        except nvml.NVMLError as error:
            self._is_open = False
            raise GpuReadError(
                f"{self._device.name} (GPU {self._device.index}) did not answer: {error}",
                "If it does not come back, see `nvidia-smi` and the system log (Xid).",
            ) from error

    def fault(self) -> GpuFault | None:
        """The worst fault since the last call: a lost card, or an Xid that the driver reported.

        The first call starts to listen for Xids; Windows has none.
        """
        nvml, name = self._nvml, f"{self._device.name} (GPU {self._device.index})"
        xids = self._new_xids()
        try:
            self._reopen_after_failure()
            nvml.nvmlDeviceGetMemoryInfo(self._handle)
        except nvml.NVMLError as error:
            if error.value in self._gone:
                return GpuFault(f"{name}: {error}{_xid_words(xids)}", is_fatal=True)
        if not xids:
            return None
        is_fatal = not APPLICATION_XIDS.issuperset(xids)
        return GpuFault(f"{name} reported{_xid_words(xids)}", is_fatal=is_fatal)

    def _new_xids(self) -> list[int]:
        nvml, xids = self._nvml, list[int]()
        try:
            if self._events is None:
                self._events = nvml.nvmlEventSetCreate()
                nvml.nvmlDeviceRegisterEvents(
                    self._handle, nvml.nvmlEventTypeXidCriticalError, self._events
                )
            while True:
                xids.append(int(nvml.nvmlEventSetWait_v2(self._events, 0).eventData))
        except nvml.NVMLError:  # none is left, or this driver reports none
            return xids

    def _process_bytes(self, pid: int) -> int | None:
        """Bytes of `pid` on the device; None if NVML has no figure.

        It does not say on WDDM, nor inside a container with its own pid namespace, where it
        lists the host's pids: a foreign process must not be taken for ours, so no guess is made.
        A process that computes and draws stands in both lists with the same figure: the graphics
        list only answers for one that the compute list lacks.
        """
        nvml = self._nvml
        for running in (
            nvml.nvmlDeviceGetComputeRunningProcesses,
            nvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            mine = [process for process in self._listed(running) if process.pid == pid]
            if mine:
                return self._sum_of([process.usedGpuMemory for process in mine])
        return None

    def _listed(self, running: Callable[[Any], list[Any]]) -> list[Any]:
        try:
            return self._optional(running, self._handle) or []
        except self._nvml.NVMLLibraryMismatchError:  # a driver too old for this list
            return []

    def _sum_of(self, counts: Iterable[int | None]) -> int | None:
        unknown = {None, self._nvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value}
        known = list(counts)
        return None if unknown.intersection(known) else sum(c for c in known if c is not None)

    def _memory(self) -> Any:
        nvml = self._nvml
        memory = self._optional(nvml.nvmlDeviceGetMemoryInfo, self._handle, nvml.nvmlMemory_v2)
        return memory or nvml.nvmlDeviceGetMemoryInfo(self._handle)

    def _optional(self, query: Callable[..., Any], *arguments: Any) -> Any:
        """Returns the answer, or None if this device or driver has none."""
        try:
            return query(*arguments)
        except self._nvml.NVMLError as error:
            if error.value in self._not_available:
                return None
            raise

    def _read_device(self, index: int) -> GpuDevice:
        nvml, handle, optional = self._nvml, self._handle, self._optional
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        capability = optional(nvml.nvmlDeviceGetCudaComputeCapability, handle)
        model = optional(nvml.nvmlDeviceGetCurrentDriverModel, handle)
        display = optional(nvml.nvmlDeviceGetDisplayActive, handle)
        nvml_index = optional(nvml.nvmlDeviceGetIndex, handle)
        return GpuDevice(
            index=index if nvml_index is None else nvml_index,
            uuid=nvml.nvmlDeviceGetUUID(handle),
            name=nvml.nvmlDeviceGetName(handle),
            total_bytes=int(self._memory().total),
            driver_version=nvml.nvmlSystemGetDriverVersion(),
            cuda_driver_version=f"{cuda // 1000}.{cuda % 1000 // 10}",
            compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
            is_wddm=model == nvml.NVML_DRIVER_WDDM or _WSL_GPU.exists(),
            display_active=None if display is None else bool(display),
        )

    def _find(self, index: int) -> Any:
        """Handle of the `index`-th visible device."""
        nvml = self._nvml
        count: int = nvml.nvmlDeviceGetCount()
        if count == 0:
            raise NoGpuError("the NVIDIA driver runs but lists no GPU", _ON_CPU)
        text = os.environ.get("CUDA_VISIBLE_DEVICES")
        entries = visible_entries(text)
        if entries is None:
            entries = [str(place) for place in range(count)]
        if index >= len(entries):
            shown = "is not set" if text is None else f"is {text!r}"
            raise NoGpuError(
                f"GPU {index} was asked for, but {len(entries)} of {count} are visible "
                f"(CUDA_VISIBLE_DEVICES {shown})",
                "Ask for a lower index, or change CUDA_VISIBLE_DEVICES.",
            )
        entry = entries[index]
        if entry.startswith("MIG-"):
            return nvml.nvmlDeviceGetHandleByUUID(entry)
        if entry.isdecimal() and int(entry) < count:
            return nvml.nvmlDeviceGetHandleByIndex(int(entry))
        for place in range(count if entry.startswith("GPU-") else 0):
            handle = nvml.nvmlDeviceGetHandleByIndex(place)
            # CUDA takes any unambiguous beginning of a UUID.
            if nvml.nvmlDeviceGetUUID(handle).startswith(entry):
                return handle
        raise NoGpuError(
            f"CUDA_VISIBLE_DEVICES names {entry}, which is none of the {count} GPUs here",
            "`nvidia-smi -L` lists their numbers and UUIDs.",
        )

    def _reopen_after_failure(self) -> None:
        """Opens NVML again and finds the same card: a driver reset makes old handles invalid."""
        if self._is_open:
            return
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()
        self._nvml.nvmlInit()
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(self._device.uuid)
        self._is_open, self._events = True, None

    def _no_gpu(self, error: Exception) -> NoGpuError:
        nvml, code = self._nvml, getattr(error, "value", None)
        if code == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return NoDriverError(
                "no NVIDIA driver is installed: its NVML library is not found",
                f"Install the driver. {_ON_CPU}",
            )
        reasons = {
            nvml.NVML_ERROR_DRIVER_NOT_LOADED: (
                "the NVIDIA driver is installed but not loaded",
                f"See what `nvidia-smi` says; restart after a driver update. {_ON_CPU}",
            ),
            nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
                "the NVIDIA driver was updated while running: library and kernel module differ",
                "Restart the machine.",
            ),
        }
        message, remedy = reasons.get(
            code, (f"NVML failed: {error}", "See what `nvidia-smi` says.")
        )
        return NoGpuError(message, remedy)
