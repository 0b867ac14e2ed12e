"""The workloads of a configuration under the planner's memory plans."""

from __future__ import annotations

from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.planner import plans, settle_plan, smallest
from vram_search.spec.point import Hyperparameters
from vram_search.spec.shape import ModelShape
from vram_search.spec.study import StudySpec


def planned_workloads(
    study: StudySpec, hp: Hyperparameters, shape: ModelShape, limit: MemoryBudget
) -> dict[str, Workload]:
    """The workloads of the chosen plan, where one fits, and of the smallest, by name.

    Raises:
        ValueError: the model lacks a LoRA module that is named.
    """
    candidates = plans(shape, hp, study.card, study.plan, eval_cutoff_len=study.eval_cutoff_len)
    chosen = settle_plan(candidates, limit.budget_bytes, limit.margin)
    least = smallest(candidates).settled()
    found = {} if chosen is None else {f"fastest plan that fits, {chosen.plan.label}": chosen}
    if chosen is None or chosen.plan != least.plan:
        found[f"smallest plan, {least.plan.label}"] = least
    return {name: planned.estimate.workload for name, planned in found.items()}
