"""Checks of the GPU: NVML's answers, who manages its memory, spilling, the allocator's cap."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from vram_search.gpu import SYSMEM_FALLBACK_HINT, GpuReader, GpuSample
from vram_search.selftest.check import Check, failed, passed
from vram_search.spec.base import Spec
from vram_search.spec.card_names import card_of_device
from vram_search.units import MIB, format_bytes
from vram_search.worker.calibrate import short_run, short_run_environment

COMMAND = (sys.executable, "-m", "vram_search.train.selftest")
LIMITS = ("wddm", "spill_policy", "allocator_cap")
"""Checks that need a short run on the GPU."""
READINGS = 25
NEEDED_PER_SECOND = 20
"""A step's peak lasts tens of milliseconds."""
RISE_TOLERANCE_BYTES = 64 * MIB
"""Memory that other programs may free meanwhile, where only the device's use is known."""


class Requests(Spec):
    """The report of `train.selftest`: which requests torch granted."""

    beyond_card: bool
    beyond_cap: bool
    held_bytes: int
    reserved_bytes: int
    cap_bytes: int


def check_nvml(reader: GpuReader) -> Check:
    """Reads the GPU as often as the monitor of a trial does.

    Raises:
        GpuReadError: it does not answer.
    """
    device = reader.device()
    started = time.monotonic()
    samples = [reader.sample(None) for _ in range(READINGS)]
    rate = READINGS / max(time.monotonic() - started, 1e-9)
    last = samples[-1]
    figures = {
        "gpu": device.name,
        "card": (card_of_device(device.name, device.total_bytes) or {}).get("name"),
        "total_bytes": device.total_bytes,
        "occupied_bytes": last.occupied_bytes,
        "driver": device.driver_version,
        "readings_per_second": round(rate),
        "has_utilization": last.utilization_percent is not None,
        "has_power": last.power_watts is not None,
        "has_clock": last.sm_clock_mhz is not None,
    }
    if not 0 < last.occupied_bytes <= device.total_bytes:
        return failed(
            "nvml",
            f"NVML reports {format_bytes(last.occupied_bytes)} in use of "
            f"{format_bytes(device.total_bytes)}, which is impossible",
            "update the NVIDIA driver",
            **figures,
        )
    if rate < NEEDED_PER_SECOND:
        return failed(
            "nvml",
            f"NVML answers {rate:.0f} times a second; the peak of a step needs {NEEDED_PER_SECOND}",
            "close other programs that read the GPU, then repeat the test",
            **figures,
        )
    return passed(
        "nvml",
        f"NVML answers {rate:.0f} times a second: {device.name}, "
        f"{format_bytes(device.total_bytes - last.occupied_bytes)} free of "
        f"{format_bytes(device.total_bytes)}, driver {device.driver_version}",
        **figures,
    )


def check_limits(reader: GpuReader, command: Sequence[str] = COMMAND) -> list[Check]:
    """Requests memory in a short run: more than its cap, and more than the card has.

    Raises:
        VramSearchError: the short run failed.
    """
    device, idle = reader.device(), reader.sample(None)
    (reported,) = short_run(command, short_run_environment(device), reader.sample)
    requests = Requests.model_validate(reported.report)
    is_wddm = device.is_wddm
    return [
        _manager(idle, reported.sample, requests, is_wddm=is_wddm),
        _spill_policy(requests, is_wddm=is_wddm),
        _cap(requests),
    ]


def _manager(idle: GpuSample, now: GpuSample, requests: Requests, *, is_wddm: bool) -> Check:
    """Checks the figure that a trial's measured bytes come from."""
    rise = now.device_bytes - idle.device_bytes
    figures = {
        "is_wddm": is_wddm,
        "process_bytes": now.process_bytes,
        "device_rise_bytes": rise,
        "reserved_bytes": requests.reserved_bytes,
    }
    if now.process_bytes is not None:
        who = "Windows manages" if is_wddm else "the driver manages"
        return passed(
            "wddm", f"{who} the card's memory, and NVML has a figure for each process", **figures
        )
    if not is_wddm:
        return passed(
            "wddm",
            "the driver manages the card's memory; NVML has no figure for our process, as in a "
            "container, so measured bytes are torch's own",
            **figures,
        )
    if rise < requests.held_bytes - RISE_TOLERANCE_BYTES:
        return failed(
            "wddm",
            f"Windows manages the card's memory, and its use rose by {format_bytes(rise)} while "
            f"{format_bytes(requests.held_bytes)} were allocated",
            "close other programs that use the GPU, then repeat the test",
            **figures,
        )
    return passed(
        "wddm",
        "Windows manages the card's memory (WDDM): NVML has no figure for a process, so the rise "
        f"of the card's use counts, {format_bytes(rise)} for {format_bytes(requests.held_bytes)} "
        "and a CUDA context",
        **figures,
    )


def _spill_policy(requests: Requests, *, is_wddm: bool) -> Check:
    figures = {"granted_beyond_card": requests.beyond_card}
    if requests.beyond_card:
        remedy = SYSMEM_FALLBACK_HINT if is_wddm else ""
        return failed(
            "spill_policy",
            "more memory was granted than the card has: a run that does not fit becomes slow "
            "instead of stopping",
            remedy,
            **figures,
        )
    return passed(
        "spill_policy", "a request that is larger than the card is refused, not spilled", **figures
    )


def _cap(requests: Requests) -> Check:
    cap = format_bytes(requests.cap_bytes)
    if requests.beyond_cap:
        return failed(
            "allocator_cap",
            f"torch granted more than its cap of {cap}",
            "a smaller card cannot be emulated here; update torch",
            cap_bytes=requests.cap_bytes,
        )
    return passed(
        "allocator_cap",
        f"torch refuses requests beyond its cap ({cap})",
        cap_bytes=requests.cap_bytes,
    )
