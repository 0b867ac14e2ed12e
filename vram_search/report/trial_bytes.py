"""A trial's bytes: predicted beside measured, part by part, and what was held when they ran out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vram_search.report.figures import card_title, measured_on
from vram_search.report.trial_fields import StudyFields, TrialFields
from vram_search.report.wrapping import wrapped
from vram_search.units import format_bytes, percent

_OUTSIDE = ("allocator_slack", "context")
"""Parts of the process that are outside the allocated bytes (`Estimate.parts`)."""
_Sums = dict[str, int | None]


def byte_lines(study: StudyFields, trial: TrialFields) -> list[str]:
    """The table of parts and sums, and what they say together; nothing without a prediction."""
    predicted, measured = trial.predicted or {}, trial.measured or {}
    if not predicted:
        return []
    lines = [f"  {'bytes':<24}{'predicted':>12} {'measured':>12}"]
    left, right = _inside(predicted.get("parts", {})), _inside(measured.get("parts", {}))
    lines += [
        _row(name.replace("_", " "), left.get(name), right.get(name)) for name in left | right
    ]
    sums, found = _predicted_sums(predicted), _measured_sums(measured)
    lines += [
        _row(name, sums[name], found[name])
        for name in sums
        if sums[name] is not None or found[name] is not None
    ]
    return [*lines, *_verdict(predicted), *_peaks(measured), *_origin(study, trial)]


def oom_lines(error: Mapping[str, Any]) -> list[str]:
    """The parts allocated when memory ran out, largest first; empty if unknown."""
    parts = error.get("parts")
    if not parts:
        return []
    lines = [f"  {'when memory ran out':<37}{'measured':>12}"]
    for name, size in sorted(parts.items(), key=lambda item: -item[1]):
        lines.append(f"    {_words(name):<35}{format_bytes(size):>12}")
    lines.append(f"    {'= allocated':<35}{format_bytes(sum(parts.values())):>12}")
    if error.get("requested_bytes"):
        lines.append(f"    {'request that failed':<35}{format_bytes(error['requested_bytes']):>12}")
    return lines


def _row(name: str, predicted: int | None, measured: int | None) -> str:
    return f"    {name[:21]:<22}{format_bytes(predicted):>12} {format_bytes(measured):>12}"


def _words(part: str) -> str:
    return part.replace("_", " ")


def _inside(parts: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in parts.items() if name not in _OUTSIDE}


def _predicted_sums(predicted: Mapping[str, Any]) -> _Sums:
    parts = predicted.get("parts", {})
    return {
        "= allocated": predicted.get("allocated_bytes"),
        "allocator slack": parts.get("allocator_slack"),
        "= reserved": predicted.get("reserved_bytes"),
        "context": parts.get("context"),
        "= process": predicted.get("process_bytes"),
        "VRAM needed": predicted.get("required_bytes"),
    }


def _measured_sums(measured: Mapping[str, Any]) -> _Sums:
    """At the probe's peak, whose parts were measured; of the whole run where there was no probe."""
    of = "probe_" if measured.get("parts") else ""
    allocated, reserved = measured.get(f"{of}allocated_bytes"), measured.get(f"{of}reserved_bytes")
    context = _difference(measured.get("process_bytes"), measured.get("reserved_bytes"))
    return {
        "= allocated": allocated,
        "allocator slack": _difference(reserved, allocated),
        "= reserved": reserved,
        "context": context,
        "= process": None if context is None or reserved is None else reserved + context,
        "VRAM needed": measured.get("required_bytes"),
    }


def _difference(whole: int | None, part: int | None) -> int | None:
    """None where one is unknown, or NVML's samples missed the peak."""
    return whole - part if whole is not None and part is not None and whole >= part else None


def _verdict(predicted: Mapping[str, Any]) -> list[str]:
    """Required bytes with the margin that held when the trial was planned, beside the limit."""
    if not {"margin", "required_bytes", "excess", "budget_bytes"} <= set(predicted):
        return []
    needed = predicted["required_bytes"] * (1 + predicted["margin"])
    place = "above" if predicted["excess"] > 0 else "within"
    return wrapped(
        f"with a margin of {percent(predicted['margin'], 1)}: {format_bytes(needed)}, "
        f"{place} the VRAM limit of {format_bytes(predicted['budget_bytes'])}",
        "    ",
    )


def _peaks(measured: Mapping[str, Any]) -> list[str]:
    probe, whole = measured.get("probe_allocated_bytes"), measured.get("allocated_bytes")
    if not probe or not whole:
        return []
    missed = "; THE PROBE MISSED IT" if "probe_miss" in measured else ""
    return wrapped(
        f"peak allocated: probe {format_bytes(probe)}, whole run {format_bytes(whole)} "
        f"({whole / probe:.3f} times){missed}"
    )


def _origin(study: StudyFields, trial: TrialFields) -> list[str]:
    text = f"predicted for {card_title(study)}"
    if trial.measured:
        text += f"; measured: {measured_on(trial)}"
    return wrapped(text, "    ")
