"""The Pareto front: trials that no other beats in both eval_loss and required bytes."""

from __future__ import annotations

from collections.abc import Iterable

from vram_search.store import TrialRecord


def required_bytes(trial: TrialRecord) -> tuple[int | None, str]:
    """Smallest limit under which the trial runs, and "measured" or "predicted"."""
    if trial.measured_required_bytes is not None:
        return trial.measured_required_bytes, "measured"
    return trial.predicted_required_bytes, "predicted"


def comparable(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Trials whose eval_loss counts: complete, and the loss is finite."""
    return [t for t in trials if t.outcome == "complete" and t.eval_loss is not None]


def pareto_front(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Complete trials such that each lower eval_loss costs more required bytes.

    Trials without required bytes are left out. Of equal trials the lowest number stays.

    Returns:
        Fewest bytes, and so the highest eval_loss, first.
    """
    sized = [
        (size, trial.eval_loss or 0.0, trial.number, trial)
        for trial in comparable(trials)
        if (size := required_bytes(trial)[0]) is not None
    ]
    front: list[TrialRecord] = []
    lowest = float("inf")
    for _, loss, _, trial in sorted(sized, key=lambda item: item[:3]):
        if loss < lowest:
            front.append(trial)
            lowest = loss
    return front
