"""Why a trial did not fit: what was predicted, with which margin, against which VRAM limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vram_search.report.why.evidence import Facts
from vram_search.report.words import plan_words
from vram_search.store import TrialRecord
from vram_search.units import format_bytes, format_duration, percent

_LARGEST = 3


def infeasible_facts(trial: TrialRecord) -> Facts:
    """The smallest plan's prediction against the VRAM limit."""
    facts, figures = _judged(trial.predicted or {})
    parts = (trial.predicted or {}).get("parts")
    if parts:
        facts.append(f"the largest parts: {_largest(parts)}")
    if facts:
        facts.append(f"that was the smallest plan: {plan_words(trial.plan)}")
    return facts, figures


def oom_facts(trial: TrialRecord) -> Facts:
    """Bytes requested and held when memory ran out, and the predicted bytes."""
    error = trial.error or {}
    facts, figures = _held(error)
    if taken := error.get("others_took_bytes"):
        facts.append(
            f"other programs had taken {format_bytes(taken)} of the VRAM limit: the prediction is "
            "not to blame"
        )
        figures["others_took_bytes"] = taken
    said, judged = _judged(trial.predicted or {})
    facts += said
    if judged.get("excess", 0) > 0:
        facts.append("it was run although it was predicted not to fit (plan.skip_infeasible)")
    if spent := (trial.seconds or {}).get("oom"):
        facts.append(f"faster plans had run out of memory before, in {format_duration(spent)}")
    if ratio := (trial.measured or {}).get("required_ratio_above"):
        facts.append(
            f"the study's later trials are planned with a margin of {percent(ratio - 1, 1)}, or "
            "more"
        )
        figures["required_ratio_above"] = ratio
    return facts, {**judged, **figures}


def _held(error: Mapping[str, Any]) -> Facts:
    """At the moment when memory ran out."""
    facts, figures = [], {}
    if shape := error.get("batch_shape"):
        facts.append(f"the batch had {shape[0]} rows, the longest of {shape[1]} tokens")
        figures["batch_shape"] = shape
    if requested := error.get("requested_bytes"):
        facts.append(f"{format_bytes(requested)} could not be allocated")
        figures["requested_bytes"] = requested
    if parts := error.get("parts"):
        allocated = sum(parts.values())
        facts.append(
            f"{format_bytes(allocated)} were allocated then, the largest: {_largest(parts)}"
        )
        figures["allocated_bytes"] = allocated
    return facts, figures


def _judged(predicted: Mapping[str, Any]) -> Facts:
    """The plan against the VRAM limit, as it was judged then; an older record lacks it."""
    required, budget = predicted.get("required_bytes"), predicted.get("budget_bytes")
    if required is None:
        return [], {}
    figures = {"predicted_required_bytes": required}
    if budget is None:
        return [f"predicted: {format_bytes(required)} needed"], figures
    margin = predicted.get("margin", 0.0)
    needed = required * (1 + margin)
    place = "over" if needed > budget else "within"
    fact = (
        f"predicted: {format_bytes(required)} needed, {format_bytes(needed)} with the margin of "
        f"{percent(margin, 1)}; {format_bytes(abs(needed - budget))} {place} the VRAM limit of "
        f"{format_bytes(budget)}"
    )
    figures |= {"margin": margin, "budget_bytes": budget, "excess": needed / budget - 1}
    return [fact], figures


def _largest(parts: Mapping[str, int]) -> str:
    inside = [item for item in parts.items() if item[0] != "context"]  # not of required bytes
    ranked = sorted(inside, key=lambda item: -item[1])[:_LARGEST]
    return ", ".join(f"{name.replace('_', ' ')} {format_bytes(size)}" for name, size in ranked)
