"""The memory budget of a run, updated while other programs allocate and free memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.side_by_side import share_of_card
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
"""Smallest change that counts as another program; a desktop's own use varies by tens of MiB."""


@dataclass
class Budget:
    """The allocator's budget: at the start of the run, and now."""

    first_bytes: int
    """The budget at the start of the run. It is also the allocator's cap, which does not change."""
    now_bytes: int
    memory: CardMemory
    reader: GpuReader | None = None
    """Reads NVML. None without a GPU; the budget then does not change."""
    baseline_device_bytes: int | None = None
    """`GpuSample.device_bytes` before our first process."""
    emulated: str | None = None
    """Name of the study's card if a larger device emulates it."""

    @classmethod
    def at_start(
        cls,
        limit: MemoryBudget,
        reader: GpuReader | None,
        note: Callable[[str], None],
        share: int = 1,
        neighbour_bytes: int = 0,
    ) -> Self:
        """Returns the budget at the start; call it before the training process starts.

        Args:
            share: number of trainings on the card, of which each gets an equal part.
            neighbour_bytes: what other studies on the card will take, by prediction; they may not
                have allocated it yet.

        Raises:
            InputError: nothing is left to train with.
        """
        card = limit.card
        memory = share_of_card(limit.memory, share)
        if reader is None:
            note(f"no GPU here: training on the CPU; bytes are predictions for {card.label}")
            return cls(memory.budget_bytes, memory.budget_bytes, memory)
        others, device = reader.sample(None), reader.device()
        occupied_bytes = max(others.occupied_bytes, neighbour_bytes)
        found = budget_here(device.total_bytes, occupied_bytes, memory)
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
        """Returns the card's figures, with the workspaces of a device that emulates it."""
        if self.reader is None or self.emulated is None:
            return hardware
        capability = self.reader.device().compute_capability
        return hardware.on(capability) if capability is not None else hardware

    def refresh(self, pid: int | None, note: Callable[[str], None]) -> None:
        """Reads NVML between trials and notes what changed. `pid` is our process, if it runs.

        Nothing changes if NVML has no figure for our process (Windows, containers).
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
        """Takes a reading of our resident process and returns the budget's change in bytes.

        The memory of other programs counts as in `budget_here`. Changes below NOTICED_BYTES are
        ignored.
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
