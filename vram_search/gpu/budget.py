"""The memory limit of a study's card on this machine's device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vram_search.errors import InputError
from vram_search.spec.card_memory import CardMemory
from vram_search.units import GIB, format_bytes

SAME_CARD_TOLERANCE = 0.01
"""Drivers and ECC settings move a card's reported total a little; a larger *kind* of card has
gigabytes more. Within this fraction the device counts as the study's card, not as an emulation."""


@dataclass(frozen=True)
class CardBudget:
    """The limit of a run on this machine's device."""

    budget_bytes: int
    """Bytes that the allocator may take; the CUDA context comes on top."""
    emulated: bool
    """True if the device is larger than the study's card: the allocator's cap emulates it."""
    limited_by: Literal["card", "device", "other processes"]
    explanation: str


def emulation_words(card_total_bytes: int, device_name: str) -> str:
    """Name in reports of a card that a larger one emulates: "emulated 16 GB on NVIDIA H200".

    The card's size is rounded as it is sold: 16,311 MiB are 16 GB.
    """
    size = card_total_bytes / GIB
    return f"emulated {size:.{0 if size >= 8 else 1}f} GB on {device_name}"


def budget_here(
    device_total_bytes: int, device_used_by_others_bytes: int, card: CardMemory
) -> CardBudget:
    """Computes the limit on this machine: the smaller of what the card and the device leave.

    Args:
        device_total_bytes: `GpuDevice.total_bytes`.
        device_used_by_others_bytes: `GpuSample.occupied_bytes` before our process starts.
        card: the study's card.

    Raises:
        InputError: nothing is left.
    """
    if card.budget_bytes <= 0:
        raise InputError(
            f"the card's {format_bytes(card.total_bytes)} leave nothing to train with: "
            f"{format_bytes(card.reserve_bytes)} are reserved, "
            f"{format_bytes(card.context_bytes)} go to the CUDA context",
            "Lower the card's reserve_bytes or context_bytes, or choose a larger card.",
        )
    device = card.on_device(device_total_bytes, device_used_by_others_bytes)
    budget_bytes = min(card.budget_bytes, device.budget_bytes)
    if budget_bytes <= 0:
        raise InputError(
            f"nothing is left to train with on this {format_bytes(device_total_bytes)} GPU: "
            f"others use {format_bytes(device_used_by_others_bytes)}, "
            f"{format_bytes(card.reserve_bytes)} are reserved, "
            f"{format_bytes(card.context_bytes)} go to the CUDA context",
            "Close what else uses the GPU (`nvidia-smi` lists it), or lower the card's "
            "reserve_bytes in the study.",
        )
    emulated = device_total_bytes > card.total_bytes * (1 + SAME_CARD_TOLERANCE)
    limited_by: Literal["card", "device", "other processes"] = "card"
    if device.budget_bytes < card.budget_bytes:
        lost_to_device = card.total_bytes - device_total_bytes
        lost_to_others = device.reserve_bytes - card.reserve_bytes
        limited_by = "device" if lost_to_device >= lost_to_others else "other processes"
    return CardBudget(
        budget_bytes=budget_bytes,
        emulated=emulated,
        limited_by=limited_by,
        explanation=_explain(
            budget_bytes,
            emulated,
            limited_by,
            card,
            device_total_bytes,
            device_used_by_others_bytes,
        ),
    )


def _explain(
    budget_bytes: int,
    emulated: bool,
    limited_by: Literal["card", "device", "other processes"],
    card: CardMemory,
    device_total_bytes: int,
    others_bytes: int,
) -> str:
    budget, context = format_bytes(budget_bytes), format_bytes(card.context_bytes)
    reserve = f"{format_bytes(card.reserve_bytes)} reserve"
    others = f"{format_bytes(others_bytes)} that others use now"
    device = f"this {format_bytes(device_total_bytes)} GPU"
    kept = others if others_bytes > card.reserve_bytes else reserve
    if limited_by == "other processes":
        return f"{budget} for training: {device} less {others} and {context} CUDA context."
    if limited_by == "device":
        return (
            f"{budget} for training: {device}, smaller than the study's "
            f"{format_bytes(card.total_bytes)} card, less {kept} and {context} CUDA context."
        )
    on = f", emulated on {device} by capping the allocator" if emulated else ""
    return (
        f"{budget} for training: the card's {format_bytes(card.total_bytes)} less {reserve} "
        f"and {context} CUDA context{on}."
    )
