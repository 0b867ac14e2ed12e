"""The GPU in this machine: NVML's readings, the memory limit, and the use of memory by a run."""

from vram_search.gpu.budget import CardBudget, budget_here, emulation_words
from vram_search.gpu.fake import FakeReader
from vram_search.gpu.monitor import Monitor, MonitorReport, PhasePeaks
from vram_search.gpu.nvml import NvmlReader, open_reader
from vram_search.gpu.reader import (
    GpuDevice,
    GpuFault,
    GpuReader,
    GpuReadError,
    GpuSample,
    NoDriverError,
    NoGpuError,
)
from vram_search.gpu.spill import SYSMEM_FALLBACK_HINT, is_spilling

__all__ = [
    "SYSMEM_FALLBACK_HINT",
    "CardBudget",
    "FakeReader",
    "GpuDevice",
    "GpuFault",
    "GpuReadError",
    "GpuReader",
    "GpuSample",
    "Monitor",
    "MonitorReport",
    "NoDriverError",
    "NoGpuError",
    "NvmlReader",
    "PhasePeaks",
    "budget_here",
    "emulation_words",
    "is_spilling",
    "open_reader",
]
