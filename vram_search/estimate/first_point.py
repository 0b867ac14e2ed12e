"""The configuration that a search of a study tries first, as workloads."""

from __future__ import annotations

from math import log

from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.planner import choose_plan, plans, smallest
from vram_search.spec.hyperparameters import Hyperparameters
from vram_search.spec.shape import ModelShape
from vram_search.spec.study import StudySpec

PRIOR_RANK = 16
PRIOR_BATCH_SIZE = 16
"""The first published point of `search/priors.py`, whose room loads Optuna."""


def first_point(study: StudySpec) -> Hyperparameters:
    """The point that a search of this study tries first (as `search.priors`)."""
    space = study.search_space
    rank = min(space.lora_rank, key=lambda value: abs(log(value / PRIOR_RANK)))
    return Hyperparameters(
        optim=space.optim[0],
        lora_target="all" if "all" in space.lora_target else space.lora_target[-1],
        lora_rank=rank,
        lora_alpha=study.training.lora_alpha_ratio * rank,
        cutoff_len=max(space.cutoff_len),
        batch_size=min(space.batch_size, key=lambda value: abs(log(value / PRIOR_BATCH_SIZE))),
        learning_rate=space.learning_rate.min,
    )


def planned_workloads(
    study: StudySpec, hp: Hyperparameters, shape: ModelShape, limit: MemoryBudget
) -> dict[str, Workload]:
    """The workloads of the chosen plan, where one fits, and of the smallest, by name.

    Raises:
        ValueError: the model lacks a LoRA module that is named.
    """
    candidates = plans(shape, hp, study.card, study.plan, eval_cutoff_len=study.eval_cutoff_len)
    chosen = choose_plan(candidates, limit.budget_bytes, limit.margin)
    least = smallest(candidates)
    found = {} if chosen is None else {f"chosen plan, {chosen.plan.label}": chosen}
    if chosen is None or chosen.plan != least.plan:
        found[f"smallest plan, {least.plan.label}"] = least
    return {name: planned.estimate.workload for name, planned in found.items()}
