"""Predicted bytes of a configuration, and the plan chosen by them. No GPU, no torch."""

from vram_search.estimate.memory import Estimate, estimate_base_bytes, predict
from vram_search.estimate.planner import (
    PlannedTrial,
    check_card_holds_base,
    choose_plan,
    plans,
    smallest,
    workload_of,
)

__all__ = [
    "Estimate",
    "PlannedTrial",
    "check_card_holds_base",
    "choose_plan",
    "estimate_base_bytes",
    "plans",
    "predict",
    "smallest",
    "workload_of",
]
