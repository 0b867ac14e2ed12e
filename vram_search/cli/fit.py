"""`vram-search fit`: the largest rank, cutoff_len and micro-batch that fit a card. No GPU."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from vram_search.answers.named import check_name, clean, find_card, lora_modules
from vram_search.errors import InputError
from vram_search.estimate.max_fit import MICRO_BATCHES, MaxFit
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.models import find_shape
from vram_search.report.fit_picture import grid_svg
from vram_search.report.fit_table import FitAnswer, fit_lines
from vram_search.spec.hyperparameters import MAX_CUTOFF_LEN, MAX_RANK
from vram_search.spec.optimizers import OPTIMIZERS

TABLE_MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
TABLE_CUTOFFS = (512, 1024, 2048, 4096, 8192)
GRID_CUTOFFS = (512, 1024, 2048, 4096, 8192, 16384)
QUANTIZATIONS = ("nf4", "int8", "none")


@click.command("fit", short_help="The largest rank, cutoff and micro-batch that fit a card.")
@click.option("--model", required=True, metavar="SLUG|FOLDER", help="As in configs/models.")
@click.option("--card", "card_slug", required=True, metavar="SLUG", help="As in configs/cards.")
@click.option("--lora-target", default="all", show_default=True, help="Set, or names with commas.")
@click.option(
    "--lora-rank", default=16, show_default=True, type=int, metavar="N", help="Of the adapter."
)
@click.option("--optim", default="adamw_8bit", show_default=True, help="As transformers names it.")
@click.option("--quantization", default="nf4", show_default=True, help="nf4, int8 or none (bf16).")
@click.option("--no-checkpointing", is_flag=True, help="Without gradient checkpointing.")
@click.option("--liger", is_flag=True, help="With Liger's kernels.")
@click.option("--cutoff-len", type=int, metavar="N", help="Largest rank at this cutoff_len, too.")
@click.option("--micro-batch", type=int, metavar="N", help="Largest rank at this micro-batch, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--svg", metavar="FILE", type=Path, help="Write the picture as SVG.")
def command(
    model: str,
    card_slug: str,
    lora_target: str,
    lora_rank: int,
    optim: str,
    quantization: str,
    no_checkpointing: bool,
    liger: bool,
    cutoff_len: int | None,
    micro_batch: int | None,
    as_json: bool,
    svg: Path | None,
) -> None:
    """The largest lora_rank, cutoff_len and micro-batch that are predicted to fit a card.

    \b
    Examples:
      vram-search fit --model qwen2.5-3b --card rtx-5060-ti-16gb
      vram-search fit --model qwen2.5-7b --card rtx-3060-12gb --liger
    """
    shape, card = find_shape(model), find_card(card_slug)
    _check_number("--lora-rank", lora_rank, MAX_RANK)
    _check_number("--cutoff-len", cutoff_len, MAX_CUTOFF_LEN)
    _check_number("--micro-batch", micro_batch, MICRO_BATCHES[-1])
    check_name("optimizer", optim, list(OPTIMIZERS))
    check_name("quantization", quantization, QUANTIZATIONS)
    if svg is not None and svg.suffix.lower() != ".svg":
        raise InputError(f"--svg {str(svg)!r} does not end in .svg", "name it like fit.svg")
    workload = Workload(
        shape=shape,
        lora_modules=lora_modules(shape, lora_target),
        lora_rank=lora_rank,
        optimizer=optim,
        per_device_train_batch_size=1,
        cutoff_len=1024,
        gradient_checkpointing=not no_checkpointing,
        quantization=quantization,
        fused_linear_cross_entropy=liger,
        equal_lengths=False,
        expandable_segments=card.platform == "linux",
    )
    fitter = MaxFit(workload, MemoryBudget.of(card, shape))
    answer = _answer(clean(model), fitter, clean(lora_target), (cutoff_len, micro_batch))
    if svg is not None:
        budget = answer.limit.budget_bytes
        _write(svg, grid_svg(answer.grid, budget, answer.title, answer.settings))
    if as_json:
        click.echo(json.dumps(_as_dict(answer), indent=2, ensure_ascii=False))
        return
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    click.echo("\n".join(fit_lines(answer, colour=colour)))
    if svg is not None:
        click.echo(f"\nwrote {clean(str(svg))}")


def _answer(
    model: str, fitter: MaxFit, lora_target: str, given: tuple[int | None, int | None]
) -> FitAnswer:
    places = [(1024, 1), (given[0] or 1024, given[1] or 1)]
    return FitAnswer(
        model=model,
        limit=fitter.limit,
        workload=fitter.workload,
        lora_target=lora_target,
        cutoff_lens=[fitter.largest_cutoff_len(batch) for batch in TABLE_MICRO_BATCHES],
        ranks=[fitter.largest_rank(*place) for place in dict.fromkeys(places)],
        micro_batches=[fitter.largest_micro_batch(cutoff) for cutoff in TABLE_CUTOFFS],
        grid=fitter.grid(GRID_CUTOFFS, TABLE_MICRO_BATCHES),
    )


def _check_number(option: str, value: int | None, highest: int) -> None:
    if value is not None and not 1 <= value <= highest:
        raise InputError(f"{option} {value} is out of range", f"give a number from 1 to {highest}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"--svg {str(path)!r} cannot be written: {error.strerror}", "name another file"
        ) from None


def _as_dict(answer: FitAnswer) -> dict[str, object]:
    limit, workload = answer.limit, answer.workload
    card = limit.card
    return {
        "model": answer.model,
        "card": {
            "name": card.name,
            "title": card.label,
            "total_bytes": card.total_bytes,
            "reserve_bytes": card.reserve_bytes,
            "context_bytes": limit.hardware.context_bytes,
            "budget_bytes": limit.budget_bytes,
            "context_origin": limit.origin,
        },
        "margin": round(limit.margin, 9),
        "not_modelled": list(workload.shape.not_modelled),
        "settings": {
            "lora_target": answer.lora_target,
            "lora_modules": list(workload.lora_modules),
            "lora_rank": workload.lora_rank,
            "optim": workload.optimizer,
            "quantization": workload.quantization,
            "gradient_checkpointing": workload.gradient_checkpointing,
            "enable_liger_kernel": workload.fused_linear_cross_entropy,
            "expandable_segments": workload.expandable_segments,
            "equal_lengths": workload.equal_lengths,
        },
        "largest_cutoff_len": [found.as_dict() for found in answer.cutoff_lens],
        "largest_lora_rank": [found.as_dict() for found in answer.ranks],
        "largest_per_device_train_batch_size": [found.as_dict() for found in answer.micro_batches],
        "grid": [
            {
                "cutoff_len": cell.cutoff_len,
                "per_device_train_batch_size": cell.micro_batch,
                "required_bytes": cell.required_bytes,
                "share_of_budget": round(cell.share, 4),
                "fits": cell.fits,
            }
            for row in answer.grid
            for cell in row
        ],
    }
