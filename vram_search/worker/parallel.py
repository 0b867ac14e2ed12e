"""Decides how many trials of a study run at once on this card."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vram_search.errors import InputError
from vram_search.estimate import PlannedTrial, choose_plan, plans
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.side_by_side import (
    LEAST_GAIN,
    gains_side_by_side,
    share_of_card,
    trials_side_by_side,
)
from vram_search.estimate.step_time import Speed, speed_here
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


def typical_plans(
    prepared: Prepared, earlier: Sequence[TrialRecord], *, has_gpu: bool
) -> list[list[PlannedTrial]]:
    """Returns the plans of typical points; of a study of several base models, for each that fits.

    Args:
        earlier: the study's trials so far.
    """
    study = prepared.study
    found = []
    for one in prepared.each:
        if one.left_out:
            continue
        pins = decided_pins(one, _own(one, earlier), has_gpu=has_gpu)
        found += [
            plans(one.shape, point, study.card, pins, eval_cutoff_len=study.eval_cutoff_len)
            for point in typical_points(study)
        ]
    return found


def _too_large_for(prepared: Prepared, part_bytes: int) -> list[str]:
    """Returns the base models, of a study of several, of which no typical plan fits a part."""
    study, found = prepared.study, []
    for one in prepared.views:
        candidates = typical_plans(replace(prepared, views=(one,)), [], has_gpu=False)
        margin = MemoryBudget.of(study.card, one.shape).margin
        fits = any(choose_plan(planned, part_bytes, margin) for planned in candidates)
        if not one.left_out and not fits:
            found.append(one.name or "")
    return found


def _own(prepared: Prepared, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [trial for trial in trials if prepared.owns(trial.hyperparameters)]


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
        for name in _too_large_for(prepared, part):
            note(f"no typical plan of model {name} fits such a part: lower parallel_trials")
        return wanted
    if reader is None:
        note("parallel_trials: auto runs one trial at a time without a GPU")
        return 1
    device = reader.device().name
    margins = [learnt_margin(one.shape, _own(one, earlier), device) for one in prepared.each]
    count = trials_side_by_side(
        typical_plans(prepared, earlier, has_gpu=True),
        limit.memory,
        limit.budget_bytes,
        max(margins),
        speed_here(device, study.card),
        os.cpu_count() or 1,
    )
    if count == 1:
        note("parallel_trials: auto runs one trial at a time: more are not predicted to gain time")
    else:
        each = format_bytes(share_of_card(limit.memory, count).budget_bytes)
        note(f"parallel_trials: auto runs {count} trials at once, each with {each} for training")
    return count


@dataclass(frozen=True)
class AtOnce:
    """Predicted gain of several trials at once on the study's card.

    Attributes:
        wanted: the study's parallel_trials.
        auto: how many `auto` would run, if the host has the cores.
        gains: trials per hour, times those of one, by the number of trials; None if they do
            not fit.
    """

    wanted: int | str
    auto: int
    gains: Mapping[int, float | None]

    @property
    def words(self) -> str:
        """The prediction in one sentence."""
        found = [
            f"{count} at once {f'{gain:.2f}' if gain else 'do not fit'}"
            for count, gain in sorted(self.gains.items())
        ]
        chosen = f"auto runs {self.auto} on this card, if the host has the cores"
        if self.wanted != "auto":
            chosen = f"the study asks for {self.wanted}; auto would run {self.auto}"
        return f"{chosen}; predicted trials per hour, times those of one: {', '.join(found)}"


def predicted_at_once(prepared: Prepared) -> AtOnce | None:
    """Predicts for the study's card, without a GPU, what trials side by side gain; None if the
    study runs one at a time."""
    study = prepared.study
    if study.parallel_trials == 1:
        return None
    limit = MemoryBudget.of(study.card, prepared.shape)
    gains = gains_side_by_side(
        typical_plans(prepared, [], has_gpu=True),
        limit.memory,
        limit.budget_bytes,
        limit.margin,
        Speed.of(study.card),
    )
    best = next((count for count, gain in gains.items() if gain and gain >= LEAST_GAIN), 1)
    return AtOnce(study.parallel_trials, best, gains)
