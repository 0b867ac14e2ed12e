"""What fits a card, as tables for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from vram_search.estimate.max_fit import Grid, Largest
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.report.fit_picture import grid_lines
from vram_search.report.parts import WIDTH
from vram_search.report.verdict import budget_lines, generic_lines
from vram_search.units import format_bytes

_TITLE_COLUMNS = 76


@dataclass(frozen=True)
class FitAnswer:
    """What was asked, and the largest values that fit."""

    model: str
    limit: MemoryBudget
    workload: Workload
    """What all answers have in common."""
    lora_target: str
    cutoff_lens: list[Largest]
    ranks: list[Largest]
    micro_batches: list[Largest]
    grid: Grid

    @property
    def title(self) -> str:
        return f"{self.model} on {self.limit.card.label}"

    @property
    def settings(self) -> str:
        """Short, for a subtitle."""
        workload = self.workload
        words = [
            f"{self.lora_target} rank {workload.lora_rank}",
            workload.optimizer,
            "bf16 weights" if workload.quantization == "none" else workload.quantization,
            "checkpointing" if workload.gradient_checkpointing else "no checkpointing",
        ]
        words += ["liger"] if workload.fused_linear_cross_entropy else []
        words += ["expandable segments"] if workload.expandable_segments else []
        return ", ".join(words)


def fit_lines(answer: FitAnswer, *, colour: bool) -> list[str]:
    """The whole answer, at most 80 columns."""
    limit, title = answer.limit, answer.title
    if len(title) > _TITLE_COLUMNS:
        title = "..." + title[3 - _TITLE_COLUMNS :]
    return [
        title,
        *textwrap.wrap(answer.settings, WIDTH, initial_indent="  ", subsequent_indent="  "),
        *budget_lines(limit),
        *generic_lines(answer.workload.shape.not_modelled, limit.margin),
        "",
        "largest cutoff_len",
        f"  {'micro-batch':>11}  {'cutoff_len':>11}  {'required':>10}",
        *(_row(found, found.micro_batch, found.cutoff_len) for found in answer.cutoff_lens),
        "",
        "largest micro-batch",
        f"  {'cutoff_len':>11}  {'micro-batch':>11}  {'required':>10}",
        *(_row(found, found.cutoff_len, found.micro_batch) for found in answer.micro_batches),
        "",
        "largest lora_rank (powers of two)",
        f"  {'cutoff_len':>11}  {'micro-batch':>11}  {'lora_rank':>10}  {'required':>10}",
        *(_rank_row(found) for found in answer.ranks),
        "",
        "GiB required",
        *grid_lines(answer.grid, limit.budget_bytes, colour=colour),
        "  predicted for training alone: evaluation and the model's own context",
        "  length are not looked at; + is the largest that was tried",
    ]


def _row(found: Largest, given: int | None, largest: int | None) -> str:
    return f"  {given:>11}  {_value(found, largest):>11}{_cost(found)}"


def _rank_row(found: Largest) -> str:
    rank = _value(found, found.lora_rank)
    return f"  {found.cutoff_len:>11}  {found.micro_batch:>11}  {rank:>10}{_cost(found)}"


def _value(found: Largest, value: int | None) -> str:
    if value is None:
        return "none"
    return f"{value}{'+' if found.at_limit else ''}"


def _cost(found: Largest) -> str:
    size = format_bytes(found.required_bytes)
    return f"  {size:>10}" + ("" if found.fits else " for the smallest")
