"""The Pareto front: trials that no other beats in both eval_loss and required bytes."""

from __future__ import annotations

from collections.abc import Iterable

from vram_search.report.figures import comparable, required_bytes
from vram_search.store import TrialRecord


def pareto_front(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Complete trials such that each lower eval_loss costs more required bytes.

    Trials without required bytes are left out. Of equal trials the lowest number stays.

    Returns:
        Fewest bytes, and so the highest eval_loss, first.
    """
    sized = [
        (size, trial.value or 0.0, trial.number, trial)
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
