"""Answers `fit`: the largest rank, cutoff_len and micro-batch that are predicted to fit a card."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from vram_search.answers.memory_budget import CardAnswer, card_answer
from vram_search.answers.named import (
    check_name,
    check_number,
    check_optimizer,
    clean,
    find_card,
    lora_modules,
    model_note,
)
from vram_search.answers.plain import PlainAnswer, PlainPart, described
from vram_search.estimate.max_fit import MICRO_BATCHES, Cell, Largest, MaxFit
from vram_search.estimate.memory.traced import is_traced
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.verdict import base_note, generic_reasons
from vram_search.models import find_model
from vram_search.spec.limits import MAX_CUTOFF_LEN, MAX_RANK
from vram_search.spec.not_trained import check_trainable

TABLE_MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
TABLE_CUTOFFS = (512, 1024, 2048, 4096, 8192)
GRID_CUTOFFS = (512, 1024, 2048, 4096, 8192, 16384)
QUANTIZATIONS = ("nf4", "int8", "none")


@dataclass(frozen=True, kw_only=True)
class FitSettings(PlainPart):
    """The settings that all figures of the answer have in common."""

    lora_target: str
    lora_modules: list[str] = field(metadata=described("Names of the layers that get an adapter."))
    lora_rank: int
    optim: str = field(metadata=described("As transformers names it."))
    quantization: str = field(metadata=described("nf4, int8 or none (bf16)."))
    gradient_checkpointing: bool
    enable_liger_kernel: bool
    expandable_segments: bool
    equal_lengths: bool = field(
        metadata=described("True if all texts are taken to be equally long.")
    )


@dataclass(frozen=True, kw_only=True)
class LargestAnswer(PlainPart):
    """The largest value that fits, the others given; null if even the smallest does not."""

    cutoff_len: int | None = field(metadata=described("Tokens."))
    per_device_train_batch_size: int | None
    lora_rank: int | None
    required_bytes: int = field(
        metadata=described("Of the largest, or of the smallest if even that does not fit.")
    )
    fits: bool
    at_limit: bool = field(metadata=described("True if nothing larger was tried."))


@dataclass(frozen=True, kw_only=True)
class FitCell(PlainPart):
    """Predicted bytes of one cutoff_len with one micro-batch."""

    cutoff_len: int = field(metadata=described("Tokens."))
    per_device_train_batch_size: int
    required_bytes: int
    share_of_budget: float = field(metadata=described("Of the card's budget, the margin included."))
    fits: bool

    @property
    def micro_batch(self) -> int:
        """The field's short name."""
        return self.per_device_train_batch_size

    @property
    def share(self) -> float:
        """The field's short name."""
        return self.share_of_budget

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `--json`; the share is rounded."""
        return {**super().as_dict(), "share_of_budget": round(self.share_of_budget, 4)}


@dataclass(frozen=True, kw_only=True)
class FitAnswer(PlainAnswer):
    """The largest values that fit a card."""

    model: str
    model_note: str = field(
        metadata=described(
            "Where the model's shape came from (empty for a folder and a shipped shape), and "
            "the linear layers that lora_target all leaves out."
        )
    )
    card: CardAnswer
    margin: float = field(metadata=described("Share added to required bytes; 0.02 is 2 %."))
    not_modelled: list[str] = field(
        metadata=described(
            "Reasons why the estimate is a generic one; empty if the family is modelled."
        )
    )
    base_note: str = field(
        metadata=described(
            "Weights that NF4 does not hold: experts in 16 bits, or a checkpoint that is "
            "quantised already; empty if there are none."
        )
    )
    settings: FitSettings
    largest_cutoff_len: list[LargestAnswer] = field(
        metadata=described("For several micro-batches.")
    )
    largest_lora_rank: list[LargestAnswer] = field(metadata=described("Powers of two."))
    largest_per_device_train_batch_size: list[LargestAnswer] = field(
        metadata=described("For several values of cutoff_len.")
    )
    grid: list[FitCell] = field(metadata=described("Row by row; a row has one cutoff_len."))

    @property
    def rows(self) -> list[list[FitCell]]:
        """The grid's rows, one for each cutoff_len."""
        return [list(row) for _, row in groupby(self.grid, key=lambda cell: cell.cutoff_len)]


def fit(
    model: str,
    card: str,
    *,
    lora_target: str = "all",
    lora_rank: int = 16,
    optim: str = "adamw_8bit",
    quantization: str = "nf4",
    checkpointing: bool = True,
    liger: bool = False,
    cutoff_len: int | None = None,
    micro_batch: int | None = None,
) -> FitAnswer:
    """Predicts the largest lora_rank, cutoff_len and micro-batch that fit a card. Needs no GPU.

    Args:
        model: slug of configs/models, a hub name, or a model's folder.
        card: slug of configs/cards.
        lora_target: a set (qv, attn, all ...), or layer names with commas.
        lora_rank: rank of the adapter, for the tables of cutoff_len and micro-batch.
        optim: as transformers names it.
        quantization: form of the base model: nf4, int8 or none (bf16).
        checkpointing: whether gradient checkpointing is on.
        liger: whether Liger's kernels are used.
        cutoff_len: tokens; the largest rank at this cutoff_len is answered, too.
        micro_batch: sequences; the largest rank at this micro-batch is answered, too.

    Returns:
        Sizes in bytes, lengths in tokens.

    Raises:
        InputError: a name is not known, or a number is out of range.
    """
    found, found_card = find_model(model), find_card(card)
    shape = found.shape()
    check_number("lora_rank", lora_rank, MAX_RANK)
    check_number("cutoff_len", cutoff_len, MAX_CUTOFF_LEN)
    check_number("micro_batch", micro_batch, MICRO_BATCHES[-1])
    check_optimizer(optim)
    check_name("quantization", quantization, QUANTIZATIONS)
    if quantization == "nf4":
        check_trainable(shape)
    workload = Workload(
        shape=shape,
        lora_modules=lora_modules(shape, lora_target),
        lora_rank=lora_rank,
        optimizer=optim,
        per_device_train_batch_size=1,
        cutoff_len=1024,
        gradient_checkpointing=checkpointing,
        quantization=quantization,
        fused_linear_cross_entropy=liger,
        equal_lengths=False,
        expandable_segments=found_card.platform == "linux",
    )
    places = [(1024, 1), (cutoff_len or 1024, micro_batch or 1)]
    fitter = MaxFit(workload, MemoryBudget.of(found_card, shape))
    return FitAnswer(
        model=clean(model),
        model_note=model_note(found.note, shape, lora_target),
        card=card_answer(fitter.limit),
        margin=round(fitter.limit.margin, 9),
        not_modelled=[] if is_traced(shape) else list(generic_reasons(shape)),
        base_note=base_note(workload),
        settings=_settings(workload, clean(lora_target)),
        largest_cutoff_len=[
            _largest(fitter.largest_cutoff_len(batch)) for batch in TABLE_MICRO_BATCHES
        ],
        largest_lora_rank=[
            _largest(fitter.largest_rank(*place)) for place in dict.fromkeys(places)
        ],
        largest_per_device_train_batch_size=[
            _largest(fitter.largest_micro_batch(cutoff)) for cutoff in TABLE_CUTOFFS
        ],
        grid=[
            _cell(cell) for row in fitter.grid(GRID_CUTOFFS, TABLE_MICRO_BATCHES) for cell in row
        ],
    )


def _settings(workload: Workload, lora_target: str) -> FitSettings:
    return FitSettings(
        lora_target=lora_target,
        lora_modules=list(workload.lora_modules),
        lora_rank=workload.lora_rank,
        optim=workload.optimizer,
        quantization=workload.quantization,
        gradient_checkpointing=workload.gradient_checkpointing,
        enable_liger_kernel=workload.fused_linear_cross_entropy,
        expandable_segments=workload.expandable_segments,
        equal_lengths=workload.equal_lengths,
    )


def _largest(found: Largest) -> LargestAnswer:
    return LargestAnswer(
        cutoff_len=found.cutoff_len,
        per_device_train_batch_size=found.micro_batch,
        lora_rank=found.lora_rank,
        required_bytes=found.required_bytes,
        fits=found.fits,
        at_limit=found.at_limit,
    )


def _cell(cell: Cell) -> FitCell:
    return FitCell(
        cutoff_len=cell.cutoff_len,
        per_device_train_batch_size=cell.micro_batch,
        required_bytes=cell.required_bytes,
        share_of_budget=cell.share,
        fits=cell.fits,
    )
