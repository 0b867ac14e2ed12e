"""Decides if a study may share its card with others, and predicts the bytes that it takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from vram_search.errors import InputError
from vram_search.estimate import choose_plan, plans
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.planner import PlannedTrial, decide_liger
from vram_search.estimate.side_by_side import LEAST_GAIN, predicted_gain
from vram_search.estimate.step_time import Speed, card_share, speed_here
from vram_search.gpu import GpuDevice
from vram_search.models.find import find_on_this_machine
from vram_search.spec import ModelShape, StudySpec
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.store.queue import QueueEntry
from vram_search.worker.parallel import typical_points

MOST_STUDIES = 4
"""Studies that share a card at most: as many trainings were measured side by side."""
CORES_EACH = 2
"""Cores of the host that a training and its supervisor keep busy."""


@dataclass(frozen=True)
class CardPart:
    """Share of a card that a study takes if others may use the rest.

    Attributes:
        bytes: most bytes that it takes, margin and CUDA context included.
        room_bytes: bytes of the card for all studies together.
    """

    bytes: int
    room_bytes: int

    def fits_beside(self, running: Sequence[QueueEntry]) -> bool:
        """True if the study fits beside the studies that run on the card."""
        taken = [entry.card_bytes for entry in running]
        known = [size for size in taken if size is not None]
        return (
            len(known) == len(taken)
            and sum(known) + self.bytes <= self.room_bytes
            and _has_cores_for(len(running) + 1)
        )


def card_part(study: StudySpec, device: GpuDevice) -> CardPart | None:
    """Predicts what a study takes of a card at most.

    Returns:
        None if the study takes the whole card: it trains several trials at once, leaves the
        decision what fits to the card, has a model that is not on this machine, or keeps the card
        so busy that a second training is not predicted to gain time.
    """
    if study.parallel_trials != 1 or not study.plan.skip_infeasible:
        return None
    try:
        shapes = _shapes(study)
        speed = speed_here(device.name, study.card)
        most = [_largest(study, shape, speed) for shape in shapes]
    except InputError:
        return None
    sizes = [size for size in most if size is not None]
    if not sizes or len(sizes) < len(most):
        return None
    return CardPart(max(sizes), device.total_bytes - study.card.reserve_bytes)


def _has_cores_for(studies: int) -> bool:
    return studies <= MOST_STUDIES and (os.cpu_count() or 1) >= CORES_EACH * studies


def _shapes(study: StudySpec) -> list[ModelShape]:
    """Returns the shapes of a study's base models.

    Raises:
        InputError: a model is not on this machine, or its config.json is faulty.
    """
    shapes = []
    for model in study.models or (study.base,):
        name = model.shape or model.model_name_or_path or ""
        found = find_on_this_machine(name)
        if found is None:
            raise InputError(f"model {name} is not on this machine")
        shapes.append(found.shape())
    return shapes


def _largest(study: StudySpec, shape: ModelShape, speed: Speed) -> int | None:
    """The most bytes that a trial takes with one base model; None if it must not share the card."""
    limit = MemoryBudget.of(study.card, shape)
    pins = decide_liger(study.plan, shape, has_gpu=True, earlier=None)
    chosen: dict[tuple[object, ...], PlannedTrial] = {}
    for point in typical_points(study):
        key = tuple(getattr(point, d.name) for d in DIMENSIONS if d.changes_bytes)
        if key in chosen:
            continue
        candidates = plans(shape, point, study.card, pins, eval_cutoff_len=study.eval_cutoff_len)
        planned = choose_plan(candidates, limit.budget_bytes, limit.margin)
        if planned is not None:
            chosen[key] = planned
    if not chosen:
        return None
    busy = sum(card_share(p.estimate.workload, speed) for p in chosen.values()) / len(chosen)
    if predicted_gain(2, busy) < LEAST_GAIN:
        return None
    required = max(planned.estimate.required_bytes for planned in chosen.values())
    return round(limit.needed_bytes(required)) + limit.memory.context_bytes
