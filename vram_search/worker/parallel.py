"""Decides how many trials of a study run at once on this card."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence

from vram_search.errors import InputError
from vram_search.estimate import plans
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.side_by_side import share_of_card, trials_side_by_side
from vram_search.estimate.step_time import speed_here
from vram_search.gpu import open_reader
from vram_search.search.gp.candidates import random_point
from vram_search.spec import Hyperparameters, StudySpec
from vram_search.spec.initial_points import initial_points
from vram_search.store import TrialRecord
from vram_search.units import format_bytes
from vram_search.worker.context import decided_pins
from vram_search.worker.margin import learnt_margin
from vram_search.worker.prepare import Prepared

_LARGEST = 1 << 20
POINTS = 24
"""Points of the space whose plans decide; drawn at random, beside the published ones."""


def typical_points(study: StudySpec) -> list[Hyperparameters]:
    """Returns points of the search space: the published ones, the largest, and some at random."""
    draw = random.Random(study.seed)
    return [
        *initial_points(study.space),
        study.space.nearest(dict.fromkeys(("lora_rank", "cutoff_len", "batch_size"), _LARGEST)),
        *(random_point(study.space, draw) for _ in range(POINTS)),
    ]


def parallel_trials(
    prepared: Prepared, earlier: Sequence[TrialRecord], note: Callable[[str], None]
) -> int:
    """Returns how many trials run at once: the study's number, or what is predicted to pay.

    Args:
        earlier: the study's trials so far.

    Raises:
        InputError: the part of the card that each trial gets holds nothing.
    """
    study, wanted = prepared.study, prepared.study.parallel_trials
    if wanted == 1:
        return 1
    limit, reader = MemoryBudget.of(study.card, prepared.shape), open_reader()
    if wanted != "auto":
        part = share_of_card(limit.memory, wanted).budget_bytes
        if part <= 0:
            raise InputError(
                f"parallel_trials {wanted}: a trial's part of {study.card.label} is smaller than a "
                f"CUDA context ({format_bytes(limit.memory.context_bytes)})",
                "lower parallel_trials, or write auto",
            )
        note(f"{wanted} trials run at once, each with {format_bytes(part)} for training")
        return wanted
    if reader is None:
        note("parallel_trials: auto runs one trial at a time without a GPU")
        return 1
    device = reader.device().name
    points = typical_points(study)
    pins = decided_pins(prepared, earlier, has_gpu=True)
    count = trials_side_by_side(
        [
            plans(prepared.shape, point, study.card, pins, eval_cutoff_len=study.eval_cutoff_len)
            for point in points
        ],
        limit.memory,
        limit.budget_bytes,
        learnt_margin(prepared.shape, earlier, device),
        speed_here(device, study.card),
        os.cpu_count() or 1,
    )
    if count == 1:
        note("parallel_trials: auto runs one trial at a time: more are not predicted to gain time")
    else:
        each = format_bytes(share_of_card(limit.memory, count).budget_bytes)
        note(f"parallel_trials: auto runs {count} trials at once, each with {each} for training")
    return count
