"""Predicted bytes of a configuration, and the plan chosen by them. No GPU, no torch."""

from vram_search.estimate.memory import Estimate, estimate, estimate_base_bytes
from vram_search.estimate.planner import (
    PlannedTrial,
    check_card_holds_base,
    choose_plan,
    plans,
    smallest,
)

__all__ = [
    "Estimate",
    "PlannedTrial",
    "check_card_holds_base",
    "choose_plan",
    "estimate",
    "estimate_base_bytes",
    "plans",
    "smallest",
]
