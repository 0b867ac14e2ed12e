"""What a card leaves to a training, and how sure a prediction has to be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vram_search.estimate.calibration import hardware_for, load_calibration
from vram_search.estimate.margin import margin_for
from vram_search.estimate.memory.hardware import Hardware
from vram_search.spec.card import Card
from vram_search.spec.shape import ModelShape

Origin = Literal["assumed", "measured", "calibrated"]
"""Where the bytes of context and workspaces are from: nobody measured them, the card's file says
they were measured, or `vram-search calibrate` measured them here."""


@dataclass(frozen=True)
class MemoryBudget:
    """A card's budget. A training fits where its required bytes and their margin do."""

    card: Card
    hardware: Hardware
    margin: float
    origin: Origin

    @classmethod
    def of(cls, card: Card, shape: ModelShape) -> MemoryBudget:
        """Of a card that may be elsewhere, for a model of this shape.

        Raises:
            InputError: the card's calibration is damaged.
        """
        origin: Origin = "assumed" if card.assumed else "measured"
        if load_calibration(card.label, card.total_bytes) is not None:
            origin = "calibrated"
        return cls(card, hardware_for(card), margin_for(shape), origin)

    @property
    def budget_bytes(self) -> int:
        """What the allocator may take: total - reserve - context."""
        return self.card.total_bytes - self.card.reserve_bytes - self.hardware.context_bytes

    def fits(self, required_bytes: int) -> bool:
        return self.needed_bytes(required_bytes) <= self.budget_bytes

    def needed_bytes(self, required_bytes: int) -> float:
        """Required bytes with their margin."""
        return required_bytes * (1 + self.margin)

    def spare_bytes(self, required_bytes: int) -> int:
        """What is left of the budget; below 0 where it does not fit."""
        return self.budget_bytes - math.ceil(self.needed_bytes(required_bytes))
