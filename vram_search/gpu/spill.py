"""Detects that Windows moved a run's memory to system RAM instead of refusing it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

STEPS_LOOKED_AT = 3
"""The median of three outvotes one slow step (a checkpoint written, a laptop waking up)."""

COLLAPSE_FACTOR = 4.0
"""PCIe is some 15 times slower than a card's own memory: a spill slows a step many times over,
while thermal throttling or a busy desktop stay below 2."""

FULL_FRACTION = 0.85
"""Windows starts to spill before the card is full: in a forced spill, at most 88.6 to 91.3 % of the
15.7 GiB of an RTX 5060 Ti were used (PCfVW/hypomnesis docs/roadmap-v0.2.5.md, which takes 85 % for
the same purpose). A threshold of 97 % would never be reached there."""

SYSMEM_FALLBACK_HINT = (
    "Windows moved GPU memory to system RAM instead of reporting out of memory. To get a clean "
    "error instead: NVIDIA Control Panel > Manage 3D settings > Program Settings > add this "
    "environment's python.exe > CUDA - Sysmem Fallback Policy > Prefer No Sysmem Fallback > "
    "Apply (driver 546.01 or newer), then start the study again."
)


def is_spilling(
    step_seconds: Sequence[float],
    expected_step_seconds: float,
    device_used_bytes: int,
    device_total_bytes: int,
    is_wddm: bool,
) -> bool:
    """Returns True if steps became very slow while a card managed by Windows was full.

    Both signs are needed: a full card is normal, and so is one slow step. Elsewhere than on
    WDDM a full card raises an out-of-memory error, so nothing spills.

    Args:
        step_seconds: seconds of each step so far, latest last; fewer than three say nothing.
        expected_step_seconds: the probe's step, or the median of this run's early steps.
        device_used_bytes: `GpuSample.occupied_bytes` (with the driver's share).
        device_total_bytes: `GpuDevice.total_bytes`.
        is_wddm: `GpuDevice.is_wddm`.
    """
    if not is_wddm or len(step_seconds) < STEPS_LOOKED_AT:
        return False
    collapsed = median(step_seconds[-STEPS_LOOKED_AT:]) > COLLAPSE_FACTOR * expected_step_seconds
    return collapsed and device_used_bytes >= FULL_FRACTION * device_total_bytes
