"""The fields of a card for readers, and a card that needs no pydantic."""

from __future__ import annotations

from dataclasses import dataclass


class CardFacts:
    """The fields of a card: a `Card` of a study, or a `PlainCard`."""

    name: str
    title: str
    total_bytes: int
    reserve_bytes: int
    context_bytes: int
    compute_capability: str
    platform: str
    assumed: bool
    bf16_tflops: float | None
    bandwidth_gb_per_s: float | None

    @property
    def has_bf16(self) -> bool:
        """bfloat16 arithmetic exists from compute capability 8.0 (Ampere) on."""
        return not self.compute_capability or float(self.compute_capability) >= 8.0

    @property
    def label(self) -> str:
        return self.title or self.name


@dataclass(frozen=True, kw_only=True)
class PlainCard(CardFacts):
    """A card whose fields are known to be right: a shipped one, or the one in this machine."""

    name: str
    title: str = ""
    total_bytes: int
    reserve_bytes: int = 0
    context_bytes: int = 0
    compute_capability: str = ""
    platform: str = "linux"
    assumed: bool = False
    bf16_tflops: float | None = None
    bandwidth_gb_per_s: float | None = None
