"""Requests more memory than the allocator's cap and than the card allow:

    python -m vram_search.train.selftest < /dev/null

It prints one line of JSON for `vram-search selftest` and waits while the supervisor reads NVML.
"""

from __future__ import annotations

import torch

from vram_search.train.calibrate import Report, run_measurement
from vram_search.train.model import limit_allocator
from vram_search.units import GIB, MIB

CAP_BYTES = 512 * MIB
HELD_BYTES = 256 * MIB
BEYOND_BYTES = GIB


def limits(report: Report) -> None:
    """Reports which requests were granted, while HELD_BYTES are allocated.

    The request beyond the card comes first: torch itself refuses it once a cap is set.
    """
    total = torch.cuda.get_device_properties(0).total_memory
    beyond_card = is_granted(total + BEYOND_BYTES)
    limit_allocator(CAP_BYTES)
    held = torch.ones(HELD_BYTES, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    report(
        {
            "beyond_card": beyond_card,
            "beyond_cap": is_granted(CAP_BYTES),
            "held_bytes": held.numel(),
            "reserved_bytes": torch.cuda.memory_reserved(),
            "cap_bytes": CAP_BYTES,
        }
    )


def is_granted(size: int) -> bool:
    """Returns True if torch gives so many bytes of the card; frees them at once."""
    try:
        torch.empty(size, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        return False
    torch.cuda.empty_cache()
    return True


if __name__ == "__main__":
    run_measurement(limits)
