"""What a run's trainings may take of the card, followed while others come and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.gpu import (
    GpuReader,
    GpuReadError,
    GpuSample,
    budget_here,
    emulation_words,
)
from vram_search.spec.card_memory import CardMemory
from vram_search.units import MIB, format_bytes

NOTICED_BYTES = 64 * MIB
"""A desktop's own use moves by tens of MiB; only more is another program."""


@dataclass
class Budget:
    """The allocator's budget: at the start of the run, and now."""

    first_bytes: int
    """Also the allocator's cap, which stays."""
    now_bytes: int
    memory: CardMemory
    reader: GpuReader | None = None
    """None without a GPU: nothing is followed then."""
    baseline_device_bytes: int | None = None
    """`GpuSample.device_bytes` before our first process."""
    emulated: str | None = None
    """Names the study's card where a larger one plays it."""

    @classmethod
    def at_start(
        cls, limit: MemoryBudget, reader: GpuReader | None, note: Callable[[str], None]
    ) -> Self:
        """To be called before the training process starts.

        Raises:
            InputError: nothing is left to train with.
        """
        card = limit.card
        memory = limit.memory
        if reader is None:
            note(f"no GPU here: training on the CPU; bytes are predictions for {card.label}")
            return cls(limit.budget_bytes, limit.budget_bytes, memory)
        others, device = reader.sample(None), reader.device()
        found = budget_here(device.total_bytes, others.occupied_bytes, memory)
        note(f"{device.name}: {found.explanation}")
        return cls(
            found.budget_bytes,
            found.budget_bytes,
            memory,
            reader,
            others.device_bytes,
            emulation_words(card.total_bytes, device.name) if found.emulated else None,
        )

    def as_played(self, hardware: Hardware) -> Hardware:
        """The card's figures; where a larger device plays it, with that device's workspaces."""
        if self.reader is None or self.emulated is None:
            return hardware
        capability = self.reader.device().compute_capability
        return hardware.on(capability) if capability is not None else hardware

    def refresh(self, pid: int | None, note: Callable[[str], None]) -> None:
        """A reading between trials; what changed is noted. `pid` is our process, if there is one.

        Nothing changes where NVML has no figure for our process (Windows, containers).
        """
        if self.reader is None or pid is None:
            return
        try:
            sample = self.reader.sample(pid)
        except GpuReadError:
            return  # the monitor counts such; the next trial asks again
        change = self.follow(sample)
        if change:
            moved = "take" if change < 0 else "gave back"
            note(
                f"other programs {moved} {format_bytes(abs(change))} of the card: "
                f"{format_bytes(self.now_bytes)} for training now"
            )

    def follow(self, sample: GpuSample | None) -> int:
        """Takes a reading of our resident process; returns by how many bytes the budget changed.

        What others hold counts as in `budget_here`; below NOTICED_BYTES nothing changes.
        """
        if self.reader is None or sample is None or sample.process_bytes is None:
            return 0
        others = sample.occupied_bytes - sample.process_bytes
        left = self.memory.on_device(self.reader.device().total_bytes, others).budget_bytes
        now = min(self.first_bytes, max(left, 1))  # shares of it are computed
        change = now - self.now_bytes
        if abs(change) < NOTICED_BYTES:
            return 0
        self.now_bytes = now
        return change
