"""Sizes of torch's caching allocator and of cuBLAS, for predictions and for recorded histories.

Source: torch `c10/cuda/CUDACachingAllocator.cpp`; each size has its name there in brackets.
"""

from __future__ import annotations

from vram_search.units import KIB, MIB

MIN_BLOCK = 512
"""Every request is rounded up to a multiple of this (`kMinBlockSize`)."""
SMALL_REQUEST = MIB
"""Requests up to this come from the small pool. A remainder up to this is not split off a block of
the large pool (`kSmallSize`, `should_split`)."""
SMALL_SEGMENT = 2 * MIB
"""Segment of the small pool (`kSmallBuffer`)."""
MEDIUM_SEGMENT = 20 * MIB
"""Segment for requests of the large pool below MIN_LARGE_REQUEST (`kLargeBuffer`)."""
MIN_LARGE_REQUEST = 10 * MIB
"""Requests of at least this size get a segment of their own (`kMinLargeAlloc`)."""
ROUND_LARGE = 2 * MIB
"""The size of such a segment is rounded up to a multiple of this (`kRoundLarge`)."""
CUBLAS_WORKSPACE_DATACENTER = 32 * MIB
"""Workspace of a cuBLAS handle on Hopper and data-centre Blackwell (torch
`aten/src/ATen/cuda/CublasHandlePool.cpp`, `parseChosenWorkspaceSize`)."""
CUBLAS_WORKSPACE = 8320 * KIB
"""The same on other cards: `:4096:2:16:8`."""
CUBLASLT_WORKSPACE = MIB
"""Workspace of a product with a bias (`getCUDABlasLtWorkspaceSize`, same file)."""


def block_size(requested: int) -> int:
    """Returns the bytes of the block for a request, before a small remainder is added to it."""
    return -(-requested // MIN_BLOCK) * MIN_BLOCK
