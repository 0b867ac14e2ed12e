"""Prints the answer of `fit` as tables for a terminal of 80 columns."""

from __future__ import annotations

from vram_search.answers.fit import FitAnswer, FitSettings, LargestAnswer
from vram_search.cli.estimate_words import budget_lines, generic_lines, note_lines, wrapped_lines
from vram_search.report.fit_picture import grid_lines
from vram_search.report.wrapping import wrapped
from vram_search.units import format_bytes

_TITLE_COLUMNS = 76


def fit_title(answer: FitAnswer) -> str:
    """The model and the card."""
    return f"{answer.model} on {answer.card.title}"


def settings_words(settings: FitSettings) -> str:
    """The settings in one line, for a subtitle."""
    words = [
        f"{settings.lora_target} rank {settings.lora_rank}",
        settings.optim,
        "bf16 weights" if settings.quantization == "none" else settings.quantization,
        "checkpointing" if settings.gradient_checkpointing else "no checkpointing",
    ]
    words += ["liger"] if settings.enable_liger_kernel else []
    words += ["expandable segments"] if settings.expandable_segments else []
    return ", ".join(words)


def fit_lines(answer: FitAnswer, *, colour: bool) -> list[str]:
    """The whole answer, at most 80 columns."""
    title = fit_title(answer)
    if len(title) > _TITLE_COLUMNS:
        title = "..." + title[3 - _TITLE_COLUMNS :]
    return [
        title,
        *wrapped(settings_words(answer.settings)),
        *note_lines(answer.model_note),
        *budget_lines(answer.card),
        *generic_lines(answer.not_modelled, answer.margin),
        *wrapped_lines(answer.base_note),
        "",
        "GiB needed",
        *grid_lines(answer.rows, answer.card.budget_bytes, colour=colour),
        "",
        "largest cutoff_len",
        f"  {'micro-batch':>11}  {'cutoff_len':>11}  {'needed':>10}",
        *(
            _row(found, found.per_device_train_batch_size, found.cutoff_len)
            for found in answer.largest_cutoff_len
        ),
        "",
        "largest micro-batch",
        f"  {'cutoff_len':>11}  {'micro-batch':>11}  {'needed':>10}",
        *(
            _row(found, found.cutoff_len, found.per_device_train_batch_size)
            for found in answer.largest_per_device_train_batch_size
        ),
        "",
        "largest lora_rank (powers of two)",
        f"  {'cutoff_len':>11}  {'micro-batch':>11}  {'lora_rank':>10}  {'needed':>10}",
        *(_rank_row(found) for found in answer.largest_lora_rank),
        "  predicted for training alone: evaluation and the model's own context",
        "  length are not counted; + is the largest that was tried",
    ]


def _row(found: LargestAnswer, given: int | None, largest: int | None) -> str:
    return f"  {given:>11}  {_value(found, largest):>11}{_cost(found)}"


def _rank_row(found: LargestAnswer) -> str:
    rank = _value(found, found.lora_rank)
    place = f"  {found.cutoff_len:>11}  {found.per_device_train_batch_size:>11}"
    return f"{place}  {rank:>10}{_cost(found)}"


def _value(found: LargestAnswer, value: int | None) -> str:
    if value is None:
        return "none"
    return f"{value}{'+' if found.at_limit else ''}"


def _cost(found: LargestAnswer) -> str:
    size = format_bytes(found.required_bytes)
    return f"  {size:>10}" + ("" if found.fits else " at the smallest")
