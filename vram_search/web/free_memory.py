"""Gives memory that requests have freed back to the system.

glibc keeps it in the heap of the thread that answered the request, so that the service would keep
as much as its largest requests have taken in each thread. Other C libraries return it themselves.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable

TRIM_SECONDS = 5.0


async def give_back_memory() -> None:
    """Returns freed memory every few seconds, until it is cancelled."""
    trim = _find_trim()
    while trim is not None:
        await asyncio.sleep(TRIM_SECONDS)
        trim(0)


def _find_trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim(3), which takes some milliseconds; None with another C library."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
