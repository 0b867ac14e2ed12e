"""`vram-search fit`: the largest rank, cutoff_len and micro-batch that fit a card. No GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from vram_search.answers.fit import fit
from vram_search.answers.named import clean
from vram_search.cli.console import echo, echo_styled
from vram_search.cli.fit_words import fit_lines, fit_title, settings_words
from vram_search.cli.options import no_trace_option, print_json
from vram_search.errors import InputError
from vram_search.report.fit_picture import grid_svg
from vram_search.resources import replace_text


@click.command("fit", short_help="The largest rank, cutoff and micro-batch that fit a card.")
@click.option(
    "--model",
    required=True,
    metavar="NAME|FOLDER",
    help="Hub name, shipped shape or folder, as in `estimate`.",
)
@click.option(
    "--card", "card_slug", required=True, metavar="CARD", help="E.g. 'RTX 4060 8GB', 16GB or auto."
)
@click.option(
    "--lora-target",
    default="all",
    show_default=True,
    help="qv, qkvo, all, or names: q_proj,v_proj.",
)
@click.option(
    "--lora-rank", default=16, show_default=True, type=int, metavar="N", help="Rank of the adapter."
)
@click.option("--optim", default="adamw_8bit", show_default=True, help="As transformers names it.")
@click.option("--quantization", default="nf4", show_default=True, help="nf4, int8 or none (bf16).")
@click.option("--no-checkpointing", is_flag=True, help="Without gradient checkpointing.")
@click.option("--liger", is_flag=True, help="With Liger's kernels.")
@click.option(
    "--cutoff-len", type=int, metavar="N", help="Show the largest rank at this cutoff_len, too."
)
@click.option(
    "--micro-batch", type=int, metavar="N", help="Show the largest rank at this micro-batch, too."
)
@click.option("--check", is_flag=True, help="Exit code 1 if nothing fits.")
@no_trace_option
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
    check: bool,
    as_json: bool,
    svg: Path | None,
) -> None:
    """The largest lora_rank, cutoff_len and micro-batch that are predicted to fit a card.

    \b
    Examples:
      vram-search fit --model qwen2.5-3b --card rtx-5060-ti-16gb
      vram-search fit --model qwen2.5-7b --card rtx-3060-12gb --liger
    """
    if svg is not None and svg.suffix.lower() != ".svg":
        raise InputError(f"--svg {str(svg)!r} does not end in .svg", "name it like fit.svg")
    answer = fit(
        model,
        card_slug,
        lora_target=lora_target,
        lora_rank=lora_rank,
        optim=optim,
        quantization=quantization,
        checkpointing=not no_checkpointing,
        liger=liger,
        cutoff_len=cutoff_len,
        micro_batch=micro_batch,
    )
    if svg is not None:
        title, settings = fit_title(answer), settings_words(answer.settings)
        _write(svg, grid_svg(answer.rows, answer.card.budget_bytes, title, settings))
    if as_json:
        print_json(answer.as_dict())
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        echo_styled("\n".join(fit_lines(answer, colour=colour)))
        if svg is not None:
            echo(f"\nwrote {clean(str(svg))}")
    if check and not any(cell.fits for cell in answer.grid):
        sys.exit(1)


def _write(path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        raise InputError(
            f"--svg {str(path)!r} cannot be written: {error.strerror}", "name another file"
        ) from None
