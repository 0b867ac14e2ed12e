"""Predicts what several trials on one card gain over one after the other.

One training leaves a card idle while the host launches kernels; a second one fills the gaps. The
rule is fitted to 2 and 4 trainings on an H200 with 16 cores (docs/experiments.md): it predicts the
eight measured gains within 9 %.
"""

from __future__ import annotations

from collections.abc import Sequence

from vram_search.estimate.planner import PlannedTrial, choose_plan
from vram_search.estimate.step_time import Speed, card_share
from vram_search.spec.card_memory import CardMemory

COUNTS = (4, 2)
"""Numbers of trials that were measured, most first."""
LEAST_GAIN = 1.2
"""Least predicted gain with which several trials run: the rule may be wrong by so much."""
HOST_EXPONENT = 0.6
"""While the host limits all trainings, k of them do k**0.6 times the work of one."""
CARD_SHARE = 0.55
"""Work that trainings get done on a busy card, which switches between them, as a share of what one
process could do on it."""


def predicted_gain(count: int, card_share: float) -> float:
    """Trials per hour of `count` trainings side by side, as a multiple of one after the other.

    Args:
        card_share: share of a step in which the card works, 0 to 1.
    """
    if count == 1:
        return 1.0
    return float(min(count**HOST_EXPONENT, CARD_SHARE / card_share))


def share_of_card(memory: CardMemory, count: int) -> CardMemory:
    """The part of a card that each of several trainings gets; each has a CUDA context."""
    return CardMemory(
        memory.total_bytes // count, memory.reserve_bytes // count, memory.context_bytes
    )


def trials_side_by_side(
    candidates: Sequence[list[PlannedTrial]],
    memory: CardMemory,
    budget_bytes: int,
    margin: float,
    speed: Speed,
    cores: int,
) -> int:
    """Returns how many trials to run at once on a card: the most that is predicted to pay.

    Whatever fits the whole card must fit the part that a trial gets, so that no point of the search
    becomes infeasible.

    Args:
        candidates: the plans of typical points of the search, and of the largest one.
        memory: of the card.
        budget_bytes: of one training alone.
        cores: of the host; each training keeps one busy, and its supervisor part of another.
    """
    gains = gains_side_by_side(candidates, memory, budget_bytes, margin, speed)
    for count, gain in gains.items():
        if cores >= 2 * count and gain is not None and gain >= LEAST_GAIN:
            return count
    return 1


def gains_side_by_side(
    candidates: Sequence[list[PlannedTrial]],
    memory: CardMemory,
    budget_bytes: int,
    margin: float,
    speed: Speed,
) -> dict[int, float | None]:
    """Predicts trials per hour of each number in COUNTS, as a multiple of one after the other.

    Returns:
        The gains, most trials first; None if a point that fits the whole card does not fit the
        part that a trial gets.
    """
    alone = [choose_plan(plans, budget_bytes, margin) for plans in candidates]
    fitting = [(p, plans) for p, plans in zip(alone, candidates, strict=True) if p is not None]
    before = sum(planned.step_seconds for planned, _ in fitting)
    gains: dict[int, float | None] = dict.fromkeys(COUNTS)
    for count in COUNTS:
        part = min(budget_bytes, share_of_card(memory, count).budget_bytes)
        if not fitting or part <= 0:
            continue
        beside = [choose_plan(plans, part, margin) for _, plans in fitting]
        planned_beside = [planned for planned in beside if planned is not None]
        if len(planned_beside) == len(fitting):
            gains[count] = before / sum(
                planned.step_seconds
                / predicted_gain(count, card_share(planned.estimate.workload, speed))
                for planned in planned_beside
            )
    return gains
