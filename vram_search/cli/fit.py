"""`vram-search fit`: the largest rank, cutoff_len and micro-batch that fit a card. No GPU."""

from __future__ import annotations

import difflib
import json
import os
import sys
import textwrap
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from vram_search.errors import InputError
from vram_search.estimate.hardware import Hardware
from vram_search.estimate.memory import predict
from vram_search.estimate.workload import Workload
from vram_search.report.fit_picture import Cell, Grid, grid_lines, grid_svg
from vram_search.resources import shipped
from vram_search.spec.card import Card, card_names, load_card
from vram_search.spec.hyperparameters import (
    LORA_TARGET_SETS,
    MAX_CUTOFF_LEN,
    MAX_RANK,
    parse_lora_target,
)
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.shape import ModelShape, load_shape, shape_names, shipped_shape_for
from vram_search.units import format_bytes

CUTOFFS = range(256, 32768 + 1, 256)
MICRO_BATCHES = range(1, 1024 + 1)
RANKS = [2**power for power in range(MAX_RANK.bit_length())]
TABLE_MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
TABLE_CUTOFFS = (512, 1024, 2048, 4096, 8192)
GRID_CUTOFFS = (512, 1024, 2048, 4096, 8192, 16384)
QUANTIZATIONS = ("nf4", "int8", "none")
_TITLE_COLUMNS = 76


@dataclass(frozen=True)
class Largest:
    """The largest value that fits, the others given; None where the smallest does not."""

    cutoff_len: int | None
    micro_batch: int | None
    lora_rank: int | None
    required_bytes: int
    """Of the largest, or of the smallest where even that does not fit."""
    fits: bool
    at_limit: bool
    """Nothing larger was tried."""

    def as_dict(self) -> dict[str, object]:
        return {
            "cutoff_len": self.cutoff_len,
            "per_device_train_batch_size": self.micro_batch,
            "lora_rank": self.lora_rank,
            "required_bytes": self.required_bytes,
            "fits": self.fits,
            "at_limit": self.at_limit,
        }


@dataclass
class Fitter:
    """Asks the memory model, each question once."""

    workload: Workload
    card: Card
    _known: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def required_bytes(self, *, cutoff_len: int, micro_batch: int, lora_rank: int) -> int:
        key = (cutoff_len, micro_batch, lora_rank)
        if key not in self._known:
            asked = replace(
                self.workload,
                cutoff_len=cutoff_len,
                per_device_train_batch_size=micro_batch,
                lora_rank=lora_rank,
            )
            self._known[key] = predict(asked, Hardware.of(self.card)).required_bytes
        return self._known[key]

    def largest_cutoff_len(self, micro_batch: int) -> Largest:
        rank = self.workload.lora_rank

        def required(cutoff_len: int) -> int:
            return self.required_bytes(
                cutoff_len=cutoff_len, micro_batch=micro_batch, lora_rank=rank
            )

        best = _last_that_fits(CUTOFFS, required, self.card.budget_bytes)
        value = CUTOFFS[0] if best is None else best
        return Largest(
            best, micro_batch, rank, required(value), best is not None, best == CUTOFFS[-1]
        )

    def largest_micro_batch(self, cutoff_len: int) -> Largest:
        rank = self.workload.lora_rank

        def required(micro_batch: int) -> int:
            return self.required_bytes(
                cutoff_len=cutoff_len, micro_batch=micro_batch, lora_rank=rank
            )

        best = _last_that_fits(MICRO_BATCHES, required, self.card.budget_bytes)
        value = MICRO_BATCHES[0] if best is None else best
        return Largest(
            cutoff_len, best, rank, required(value), best is not None, best == MICRO_BATCHES[-1]
        )

    def largest_rank(self, cutoff_len: int, micro_batch: int) -> Largest:
        """Tries from the top: bytes may fall with the rank, where states get 8 bits or paged."""
        required = 0
        for rank in reversed(RANKS):
            required = self.required_bytes(
                cutoff_len=cutoff_len, micro_batch=micro_batch, lora_rank=rank
            )
            if required <= self.card.budget_bytes:
                return Largest(cutoff_len, micro_batch, rank, required, True, rank == RANKS[-1])
        return Largest(cutoff_len, micro_batch, None, required, False, False)

    def grid(self) -> Grid:
        return [
            [
                Cell(
                    cutoff_len,
                    micro_batch,
                    self.required_bytes(
                        cutoff_len=cutoff_len,
                        micro_batch=micro_batch,
                        lora_rank=self.workload.lora_rank,
                    ),
                    self.card.budget_bytes,
                )
                for micro_batch in TABLE_MICRO_BATCHES
            ]
            for cutoff_len in GRID_CUTOFFS
        ]


def _last_that_fits(values: range, required: Callable[[int], int], budget: int) -> int | None:
    """The largest value that fits; bytes grow with the value."""
    count = bisect_left(values, True, key=lambda value: required(value) > budget)
    return values[count - 1] if count else None


@dataclass(frozen=True)
class Answer:
    """All that the command says."""

    model: str
    card: Card
    workload: Workload
    lora_target: str
    cutoff_lens: list[Largest]
    ranks: list[Largest]
    micro_batches: list[Largest]
    grid: Grid


@click.command("fit", short_help="The largest rank, cutoff and micro-batch that fit a card.")
@click.option("--model", required=True, metavar="SLUG|FOLDER", help="As in configs/models.")
@click.option("--card", "card_slug", required=True, metavar="SLUG", help="As in configs/cards.")
@click.option("--lora-target", default="all", show_default=True, help="Set, or names with commas.")
@click.option("--lora-rank", default=16, show_default=True, type=int)
@click.option("--optim", default="adamw_8bit", show_default=True)
@click.option("--quantization", default="nf4", show_default=True, help="nf4, int8 or none (bf16).")
@click.option("--no-checkpointing", is_flag=True, help="Without gradient checkpointing.")
@click.option("--liger", is_flag=True, help="With Liger's kernels.")
@click.option("--cutoff-len", type=int, help="Largest rank at this cutoff_len, too.")
@click.option("--micro-batch", type=int, help="Largest rank at this micro-batch, too.")
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
      vram-search fit --model qwen2.5-7b --card rtx-3060-12gb --liger --svg fit.svg
    """
    shape, card = _find_shape(model), _find_card(card_slug)
    _check_number("--lora-rank", lora_rank, MAX_RANK)
    _check_number("--cutoff-len", cutoff_len, MAX_CUTOFF_LEN)
    _check_number("--micro-batch", micro_batch, MICRO_BATCHES[-1])
    _check_name("optimizer", optim, list(OPTIMIZERS))
    _check_name("quantization", quantization, QUANTIZATIONS)
    if svg is not None and svg.suffix.lower() != ".svg":
        raise InputError(f"--svg {str(svg)!r} does not end in .svg", "name it like fit.svg")
    workload = Workload(
        shape=shape,
        lora_modules=_lora_modules(shape, lora_target),
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
    answer = _answer(_clean(model), card, workload, lora_target, (cutoff_len, micro_batch))
    if svg is not None:
        _write(svg, grid_svg(answer.grid, _title(answer), _settings(answer)))
    if as_json:
        click.echo(json.dumps(_as_dict(answer), indent=2, ensure_ascii=False))
        return
    lines = _lines(answer, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    click.echo("\n".join(lines))
    if svg is not None:
        click.echo(f"\nwrote {_clean(str(svg))}")


def _answer(
    model: str,
    card: Card,
    workload: Workload,
    lora_target: str,
    given: tuple[int | None, int | None],
) -> Answer:
    fitter = Fitter(workload, card)
    places = [(1024, 1), (given[0] or 1024, given[1] or 1)]
    return Answer(
        model=model,
        card=card,
        workload=workload,
        lora_target=lora_target,
        cutoff_lens=[fitter.largest_cutoff_len(batch) for batch in TABLE_MICRO_BATCHES],
        ranks=[fitter.largest_rank(*place) for place in dict.fromkeys(places)],
        micro_batches=[fitter.largest_micro_batch(cutoff) for cutoff in TABLE_CUTOFFS],
        grid=fitter.grid(),
    )


def _find_shape(model: str) -> ModelShape:
    """The shape of a slug, a folder, or a hub name whose shape is shipped."""
    slug = model if model in shape_names() else None
    path = Path(model)
    try:
        if slug is None and path.exists():
            return load_shape(path)
    except OSError as error:
        raise InputError(f"--model {model!r}: {error.strerror}", "give another folder") from None
    if slug is None and not model.startswith((".", "/", "~")):  # a path that is not there
        slug = shipped_shape_for(model)
    if slug is None:
        raise _unknown("model", model, shape_names(), "or give a folder with a config.json")
    return load_shape(shipped("configs", "models", slug))


def _find_card(slug: str) -> Card:
    try:
        return Card.model_validate(load_card(slug))
    except ValueError:
        raise _unknown("card", slug, card_names()) from None


def _lora_modules(shape: ModelShape, lora_target: str) -> tuple[str, ...]:
    names = [linear.name for linear in shape.linears]
    try:
        return tuple(shape.target_modules(parse_lora_target(lora_target)))
    except ValueError as error:
        raise InputError(
            f"--lora-target {lora_target!r}: {error}",
            f"give {', '.join(LORA_TARGET_SETS)} or names with commas out of {', '.join(names)}",
        ) from None


def _check_number(option: str, value: int | None, highest: int) -> None:
    if value is not None and not 1 <= value <= highest:
        raise InputError(f"{option} {value} is out of range", f"give a number from 1 to {highest}")


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise _unknown(what, name, known)


def _unknown(what: str, name: str, known: Sequence[str], otherwise: str = "") -> InputError:
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    remedy = f"did you mean {', '.join(close)}?" if close else f"there are: {', '.join(known)}"
    return InputError(f"no {what} {name!r}", f"{remedy} {otherwise}".rstrip())


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"--svg {str(path)!r} cannot be written: {error.strerror}", "name another file"
        ) from None


def _clean(words: str) -> str:
    """Without control characters, which a terminal would obey."""
    return "".join(sign if sign.isprintable() else " " for sign in words)


def _title(answer: Answer) -> str:
    return f"{answer.model} on {answer.card.label}"


def _settings(answer: Answer) -> str:
    workload = answer.workload
    words = [
        f"{answer.lora_target} rank {workload.lora_rank}",
        workload.optimizer,
        "bf16 weights" if workload.quantization == "none" else workload.quantization,
        "checkpointing" if workload.gradient_checkpointing else "no checkpointing",
    ]
    return ", ".join(words + (["liger"] if workload.fused_linear_cross_entropy else []))


def _lines(answer: Answer, *, colour: bool) -> list[str]:
    card = answer.card
    title = _title(answer)
    if len(title) > _TITLE_COLUMNS:
        title = "..." + title[3 - _TITLE_COLUMNS :]
    lines = [title, *_wrapped(_settings(answer))]
    assumed = " assumed" if card.assumed else ""
    lines.append(
        f"  budget {format_bytes(card.budget_bytes)} of {format_bytes(card.total_bytes)}"
        f" (reserve {format_bytes(card.reserve_bytes)}, "
        f"context {format_bytes(card.context_bytes)}{assumed})"
    )
    lines += [
        "",
        "largest cutoff_len",
        f"  {'micro-batch':>11}  {'cutoff_len':>10}  {'required':>10}",
    ]
    for found in answer.cutoff_lens:
        lines.append(
            f"  {found.micro_batch:>11}  {_value(found, found.cutoff_len):>10}{_cost(found)}"
        )
    lines += [
        "",
        "largest micro-batch",
        f"  {'cutoff_len':>11}  {'micro-batch':>10}{'required':>11}",
    ]
    for found in answer.micro_batches:
        lines.append(
            f"  {found.cutoff_len:>11}  {_value(found, found.micro_batch):>10}{_cost(found)}"
        )
    lines += ["", "largest lora_rank (powers of two)"]
    for found in answer.ranks:
        place = f"cutoff_len {found.cutoff_len} x micro-batch {found.micro_batch}"
        lines.append(f"  {place:<33}{_value(found, found.lora_rank):>6}{_cost(found)}")
    lines += ["", "GiB required", *grid_lines(answer.grid, colour=colour)]
    return [
        *lines,
        "  predicted for training alone: evaluation and the model's own context",
        "  length are not looked at; + is the largest that was tried",
    ]


def _wrapped(words: str) -> list[str]:
    return textwrap.wrap(words, 80, initial_indent="  ", subsequent_indent="  ")


def _value(found: Largest, value: int | None) -> str:
    if value is None:
        return "none"
    return f"{value}{'+' if found.at_limit else ''}"


def _cost(found: Largest) -> str:
    size = format_bytes(found.required_bytes)
    return f"  {size:>10}" + ("" if found.fits else " for the smallest")


def _as_dict(answer: Answer) -> dict[str, object]:
    card, workload = answer.card, answer.workload
    return {
        "model": answer.model,
        "card": {
            "name": card.name,
            "title": card.label,
            "total_bytes": card.total_bytes,
            "reserve_bytes": card.reserve_bytes,
            "context_bytes": card.context_bytes,
            "budget_bytes": card.budget_bytes,
            "assumed": card.assumed,
        },
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
