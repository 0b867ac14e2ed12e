"""The bytes that a card leaves to a training, and the margin that a prediction needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vram_search.estimate.calibration import hardware_for, load_calibration
from vram_search.estimate.margin import margin_for
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.objectives import SFT
from vram_search.spec.card_facts import CardFacts
from vram_search.spec.card_memory import CardMemory
from vram_search.spec.shape import ModelShape

Origin = Literal["assumed", "measured", "calibrated"]
"""Where the bytes of context and workspaces are from: nobody measured them, the card's file says
they were measured, or `vram-search calibrate` measured them here."""


@dataclass(frozen=True)
class MemoryBudget:
    """A card's budget. A training fits where its required bytes and their margin do."""

    card: CardFacts
    hardware: Hardware
    margin: float
    origin: Origin

    @classmethod
    def of(cls, card: CardFacts, shape: ModelShape, *, objective: str = SFT) -> MemoryBudget:
        """Returns the budget of a card, in this machine or not, for a model of this shape.

        Args:
            objective: as in `Workload`.

        Raises:
            InputError: the card's calibration is damaged.
        """
        origin: Origin = "assumed" if card.assumed else "measured"
        if load_calibration(card.label, card.total_bytes) is not None:
            origin = "calibrated"
        return cls(card, hardware_for(card), margin_for(shape, objective=objective), origin)

    @property
    def memory(self) -> CardMemory:
        """The card's total and reserve, with the context as calibrated here or as in its file."""
        return _memory(self.card, self.hardware)

    @property
    def budget_bytes(self) -> int:
        """Bytes that the allocator may take: total - reserve - context."""
        return self.memory.budget_bytes

    def fits(self, required_bytes: int) -> bool:
        return self.needed_bytes(required_bytes) <= self.budget_bytes

    def needed_bytes(self, required_bytes: int) -> float:
        """Required bytes with their margin."""
        return required_bytes * (1 + self.margin)

    def spare_bytes(self, required_bytes: int) -> int:
        """Bytes left of the budget; below 0 if it does not fit."""
        return self.budget_bytes - math.ceil(self.needed_bytes(required_bytes))


def card_memory(card: CardFacts) -> CardMemory:
    """The card's total and reserve, with the context as calibrated here or as in its file.

    Raises:
        InputError: the card's calibration is damaged.
    """
    return _memory(card, hardware_for(card))


def _memory(card: CardFacts, hardware: Hardware) -> CardMemory:
    return CardMemory(card.total_bytes, card.reserve_bytes, hardware.context_bytes)
