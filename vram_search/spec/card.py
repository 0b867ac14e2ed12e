"""A card: the memory and the speed of a GPU."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from vram_search.spec.base import Flag, PositiveFloat, Spec
from vram_search.spec.card_facts import CardFacts
from vram_search.spec.card_files import card_names as card_names
from vram_search.spec.card_files import load_card as load_card
from vram_search.units import parse_bytes


def _bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


ByteCount = Annotated[int, Field(strict=True, ge=0), BeforeValidator(_bytes)]
"""Bytes, written as a whole number or like "16 GiB"."""


class Card(CardFacts, Spec):
    """A name from configs/cards/, or the fields of such a file. Bytes are numbers or "16 GiB"."""

    name: str = Field(description="slug, as in configs/cards/")
    title: str = Field(default="", description="the vendor's name")
    total_bytes: Annotated[ByteCount, Field(gt=0)] = Field(description="as NVML reports it")
    reserve_bytes: ByteCount = Field(default=0, description="kept for display and other programs")
    context_bytes: ByteCount = Field(default=0, description="the CUDA context of one process")
    compute_capability: str = Field(
        default="",
        pattern=r"^([0-9]+\.[0-9]+)?$",
        description="CUDA's version; no bf16 below 8.0",
    )
    platform: Literal["linux", "windows"] = Field(
        default="linux", description="windows has no expandable segments"
    )
    assumed: Flag = Field(default=False, description="context_bytes is assumed, not measured")
    bf16_tflops: PositiveFloat | None = Field(
        default=None,
        description="peak of dense bf16 products (fp16 before Ampere) with fp32 sums; orders plans",
    )
    bandwidth_gb_per_s: PositiveFloat | None = Field(
        default=None, description="memory bandwidth; orders plans by speed"
    )
