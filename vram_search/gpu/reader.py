"""The interface of a GPU reader: its device, its samples, and its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vram_search.errors import VramSearchError


class NoGpuError(VramSearchError):
    """This machine has no GPU that can be read; message and remedy name cause and solution."""


class NoDriverError(NoGpuError):
    """This machine has no NVIDIA driver."""


class GpuReadError(VramSearchError):
    """The GPU stopped answering: the driver was reset, or the card is lost."""


@dataclass(frozen=True)
class GpuDevice:
    """Properties that do not change while a study runs. None means not available, never 0.

    `uuid` as CUDA_VISIBLE_DEVICES of a training process pins it to this very device: NVML counts
    by PCI bus, CUDA fastest first, so on a mixed machine an index may mean two cards.
    """

    index: int
    uuid: str
    name: str
    total_bytes: int
    driver_version: str
    cuda_driver_version: str
    compute_capability: str | None
    is_wddm: bool
    """True if Windows manages the memory (also below WSL2): no figure per process, may spill."""
    display_active: bool | None


@dataclass(frozen=True)
class GpuSample:
    """One reading. None means not available, never 0.

    `process_bytes` counts all of a process on the device: CUDA context and allocator together.
    `device_bytes` is what all processes use, as nvidia-smi prints it; `occupied_bytes` is total
    minus free, so it holds the driver's own share too (259 MiB on an RTX 5060 Ti): nobody can
    allocate more than total minus occupied.
    """

    at: float
    """Seconds of the monotonic clock."""
    device_bytes: int
    occupied_bytes: int
    process_bytes: int | None = None
    utilization_percent: int | None = None
    power_watts: float | None = None
    temperature_celsius: int | None = None
    sm_clock_mhz: int | None = None


@dataclass(frozen=True)
class GpuFault:
    """A fault of the GPU in NVML's words."""

    message: str
    is_fatal: bool
    """No training can go on: the card is lost, must be reset, or reported a hardware error."""


class GpuReader(Protocol):
    """Reads one GPU. `NvmlReader` does; `FakeReader` replays."""

    def device(self) -> GpuDevice:
        """The device; never fails once the reader is open."""
        ...

    def sample(self, pid: int | None) -> GpuSample:
        """Reads the GPU now, with `process_bytes` of `pid`.

        Raises:
            GpuReadError: the device did not answer this time.
        """
        ...

    def fault(self) -> GpuFault | None:
        """The worst fault since the last call, or since the first one; None: the card is well."""
        ...
