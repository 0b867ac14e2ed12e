"""Keeps the service's memory near what its requests need at one time.

Python frees objects that refer to each other late if a process has many objects, and glibc keeps
freed memory in the heap of the thread that answered the request. Other C libraries return it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys

from vram_search.units import KIB

FREE_SECONDS = 5.0
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Parameters of mallopt(3)."""
LARGE_BYTES = 64 * KIB
"""Larger pieces are taken from the system one by one and given back when they are freed."""
HEAPS = 2
"""Threads share them; by default each has its own."""


async def give_back_memory() -> None:
    """Frees memory every few seconds, until it is cancelled.

    What has been imported is left out, so a collection takes some milliseconds.
    """
    gc.collect()
    gc.freeze()
    glibc = _find_glibc()
    if glibc is not None:
        glibc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        glibc.mallopt(M_ARENA_MAX, HEAPS)
    while True:
        await asyncio.sleep(FREE_SECONDS)
        gc.collect()
        if glibc is not None:
            glibc.malloc_trim(0)


def _find_glibc() -> ctypes.CDLL | None:
    """The C library of this process if it has malloc_trim(3)."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
