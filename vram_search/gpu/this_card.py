"""The card in this machine, as a study writes it."""

from __future__ import annotations

from typing import Any

from vram_search.gpu.nvml import open_reader
from vram_search.gpu.reader import GpuDevice
from vram_search.spec.card_names import card_of_device
from vram_search.units import GIB, MIB

DISPLAY_RESERVE_BYTES = round(0.9 * GIB)
"""Kept for a display and other programs, as in configs/cards/."""
CONTEXT_BYTES = 500 * MIB
"""Assumed until `vram-search calibrate` has measured it."""


def card_here() -> dict[str, Any]:
    """Returns the fields of the GPU in this machine: the shipped card, or NVML's own figures.

    Raises:
        ValueError: no NVIDIA GPU can be read here.
    """
    reader = open_reader()
    if reader is None:
        raise ValueError(
            "auto found no NVIDIA GPU in this machine: name a card, for example rtx-4090-24gb"
        )
    device = reader.device()
    fields = card_of_device(device.name, device.total_bytes) or _from_nvml(device)
    return {**fields, "platform": "windows" if device.is_wddm else "linux"}


def _from_nvml(device: GpuDevice) -> dict[str, Any]:
    has_display = device.display_active is not False
    return {
        "name": "-".join(device.name.lower().split()),
        "title": device.name,
        "total_bytes": device.total_bytes,
        "reserve_bytes": DISPLAY_RESERVE_BYTES if has_display else 0,
        "context_bytes": CONTEXT_BYTES,
        "compute_capability": device.compute_capability or "",
        "assumed": True,
    }
