"""A card's budget: the bytes that torch's allocator may take. Imports nothing: every room can
use it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class CardMemory:
    """The bytes of a card that decide its budget."""

    total_bytes: int
    reserve_bytes: int = 0
    """Kept for a display and other programs."""
    context_bytes: int = 0
    """Taken by the CUDA context of our process, outside torch's allocator."""

    @property
    def budget_bytes(self) -> int:
        """Bytes that the allocator may take: total - reserve - context; below 0 if they exceed
        the total."""
        return self.total_bytes - self.reserve_bytes - self.context_bytes

    def on_device(self, device_total_bytes: int, used_by_others_bytes: int) -> CardMemory:
        """The same reserve and context on a device of another size that others use too.

        Bytes that others use are part of the reserve, not added to it: a display is both.
        """
        reserve_bytes = max(self.reserve_bytes, used_by_others_bytes)
        return replace(self, total_bytes=device_total_bytes, reserve_bytes=reserve_bytes)
