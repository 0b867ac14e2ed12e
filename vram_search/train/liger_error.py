"""The error of a model that Liger's kernels cannot run; needs no torch."""

from __future__ import annotations

from vram_search.errors import InputError


class LigerRefusedError(InputError):
    """Liger's kernels cannot run this model; it trains without them."""
