"""`vram-search estimate`: predicted bytes of a configuration. Imports no torch, Optuna, SQLAlchemy.

What only one mode needs is imported inside the functions, as is all that loads pydantic.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vram_search.cli.console import echo
from vram_search.cli.options import json_text, no_trace_option, print_json
from vram_search.errors import InputError

if TYPE_CHECKING:
    from vram_search.answers.estimate import EstimateAnswer
    from vram_search.answers.recipe_without_model import RecipeWithoutModel
    from vram_search.estimate.memory.hardware import Hardware

_SIZE = click.IntRange(1, 2**31)
_MODEL_OPTIONS = {
    "lora_rank": "--lora-rank",
    "lora_target": "--lora-target",
    "lora_dropout": "--lora-dropout",
    "cutoff_len": "--cutoff-len",
    "batch": "--batch",
    "accumulate": "--accumulate",
    "optim": "--optim",
    "no_checkpointing": "--no-checkpointing",
    "liger": "--liger",
    "eager": "--eager",
    "quantization": "--quantization",
    "eval_batch": "--eval-batch",
    "prepare_kbit": "--prepare-kbit",
}


@click.command("estimate", short_help="Predicted peak VRAM of a configuration, without a GPU.")
@click.argument("file", metavar="[STUDY.yaml|RECIPE.yaml]", required=False, type=Path)
@click.option(
    "--model",
    metavar="NAME|FOLDER",
    help="A hub name (Qwen/Qwen2.5-7B-Instruct), a shipped shape, or a folder; with a recipe, "
    "in place of its own model.",
)
@click.option(
    "--lora-rank",
    type=_SIZE,
    metavar="N",
    default=8,
    show_default=True,
    help="Rank of the adapter.",
)
@click.option(
    "--lora-target",
    default="all",
    show_default=True,
    help="qv, qkvo, all, or names: q_proj,v_proj.",
)
@click.option(
    "--lora-dropout",
    type=float,
    metavar="SHARE",
    default=0.0,
    show_default=True,
    help="Share of the adapter's inputs that is zeroed.",
)
@click.option(
    "--cutoff-len",
    type=_SIZE,
    metavar="N",
    default=1024,
    show_default=True,
    help="Tokens of a sequence.",
)
@click.option(
    "--batch",
    "--micro-batch",
    "batch",
    type=_SIZE,
    metavar="N",
    default=1,
    show_default=True,
    help="Sequences of a micro-batch.",
)
@click.option(
    "--accumulate",
    type=_SIZE,
    metavar="N",
    default=1,
    show_default=True,
    help="Micro-batches per optimizer step.",
)
@click.option("--optim", default="adamw_8bit", show_default=True, help="As transformers names it.")
@click.option("--no-checkpointing", is_flag=True, help="Keep all activations.")
@click.option("--liger", is_flag=True, help="enable_liger_kernel: fused linear cross entropy.")
@click.option("--eager", is_flag=True, help="Attention without a fused kernel.")
@click.option(
    "--quantization",
    type=click.Choice(["nf4", "int8", "none"]),
    default="nf4",
    show_default=True,
    help="Form of the base model.",
)
@click.option(
    "--eval-batch",
    type=click.IntRange(0, 2**31),
    metavar="N",
    default=0,
    help="Sequences of an evaluation batch; 0: no evaluation.",
)
@click.option(
    "--prepare-kbit", is_flag=True, help="As after peft's prepare_model_for_kbit_training."
)
@click.option(
    "--card", metavar="CARD", help="E.g. 'RTX 4060 8GB', 16GB or auto; a study names its own."
)
@click.option("--changes", is_flag=True, help="Show what would save bytes, also if it fits.")
@click.option("--points", metavar="FILE.jsonl", type=Path, help="One configuration per line.")
@click.option("--models", metavar="FOLDER", type=Path, help="Folder of the models that rows name.")
@click.option("--compare", metavar="A B", nargs=2, type=Path, help="Two studies or JSON rows.")
@click.option("--check", is_flag=True, help="Exit code 1 unless it is predicted to fit.")
@no_trace_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON; --points does always.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    file: Path | None,
    model: str | None,
    card: str | None,
    changes: bool,
    points: Path | None,
    models: Path | None,
    compare: tuple[Path, Path] | None,
    check: bool,
    as_json: bool,
    **_: object,
) -> None:
    """Predicted peak bytes of a study, a recipe, options or rows, and what would make it fit.

    A recipe is a YAML or JSON file of LLaMA-Factory, Axolotl or TRL, an export, or a script,
    notebook or Dockerfile that starts such a training. If its model is not found, the answer says
    what the file trains; --model gives the model.
    The exit code is 0 whether it fits or not; see --check. With --points, a wrong row is answered
    with an "error"; the exit code is 0 unless all rows are wrong.

    \b
    Examples:
      vram-search estimate studies/td-010.yaml
      vram-search estimate --model qwen2.5-3b --batch 4 --card rtx-5060-ti-16gb
      vram-search estimate my-recipe.yaml --card rtx-3060-12gb --check
      vram-search estimate my-recipe.yaml --model Qwen/Qwen3-4B
      vram-search estimate --points rows.jsonl --models configs/models
      vram-search estimate --compare a.json b.json
    """
    _check_mode(ctx)
    if points is not None:
        _print_points(points, models, card)
    elif compare is not None:
        _print_comparison(compare, models, card, as_json)
    else:
        if file is not None:
            answer = _estimate_file(file, card, model or "")
        else:
            assert model is not None, "_check_mode holds this"
            answer = _estimate_model(model, card, ctx.params)
        fits = _print_answer(answer, as_json=as_json, with_changes=changes)
        if check and not fits:
            sys.exit(1)


def _check_mode(ctx: click.Context) -> None:
    """Checks that exactly one thing is to be estimated, with its own options alone.

    Raises:
        InputError: no mode or two, or an option of another mode.
    """
    modes = {"file": "a file", "model": "--model", "points": "--points", "compare": "--compare"}
    given = [name for name in modes if ctx.params[name] is not None]
    if given == ["file", "model"]:
        given = ["file"]
    if len(given) != 1:
        both = " and ".join(modes[name] for name in given)
        raise InputError(
            f"{both} are given; one of them is estimated" if both else "nothing to estimate",
            "give one of: a study or recipe file, --model, --points, --compare",
        )
    foreign = [] if given == ["model"] else list(_MODEL_OPTIONS.items())
    if given[0] not in ("points", "compare"):
        foreign.append(("models", "--models"))
    else:
        foreign += [("changes", "--changes"), ("check", "--check")]
    default = click.core.ParameterSource.DEFAULT
    unused = [flag for name, flag in foreign if ctx.get_parameter_source(name) is not default]
    if unused:
        raise InputError(
            f"{', '.join(unused)}: not an option of {modes[given[0]]}",
            "leave it out; see `vram-search estimate --help`",
        )


def _models_folder(models: Path | None) -> Path:
    from vram_search.resources import shipped

    return shipped("configs", "models") if models is None else models


def _estimate_model(model: str, card: str | None, options: dict[str, Any]) -> EstimateAnswer:
    from vram_search.answers.estimate import estimate

    negated = ("no_checkpointing", "prepare_kbit")
    same = [name for name in _MODEL_OPTIONS if name not in negated]
    return estimate(
        model,
        card,
        **{name: options[name] for name in same},
        checkpointing=not options["no_checkpointing"],
        prepare_kbit=options["prepare_kbit"],
    )


def _estimate_file(file: Path, card: str | None, model: str) -> EstimateAnswer | RecipeWithoutModel:
    from vram_search.answers.estimate import estimate_file

    return estimate_file(file, card, model)


def _print_answer(
    answer: EstimateAnswer | RecipeWithoutModel, *, as_json: bool, with_changes: bool
) -> bool:
    """Prints an answer, and returns True if one of its plans fits."""
    from vram_search.answers.recipe_without_model import RecipeWithoutModel

    fits = not isinstance(answer, RecipeWithoutModel) and any(p.fits for p in answer.plans)
    if as_json:
        print_json(answer.as_dict())
        return fits
    from vram_search.cli.estimate_words import (
        budget_lines,
        source_lines,
        verdict_line,
        verdict_lines,
        without_model_lines,
    )

    if isinstance(answer, RecipeWithoutModel):
        echo("\n".join(without_model_lines(answer)))
        return fits
    subject = [*source_lines(answer), *budget_lines(answer.plan)]
    texts = []
    for plan in answer.plans:
        details = verdict_lines(plan, with_changes=with_changes)
        texts.append("\n".join([verdict_line(plan), *subject, *details]))
        subject = []
    echo("\n\n".join(texts))
    return fits


def _print_points(file: Path, models: Path | None, card: str | None) -> None:
    from vram_search.answers.points import predict_points

    rows = predict_points(file, _models_folder(models), _hardware(card))
    echo("\n".join(json_text(row) for row in rows))
    wrong = sum("error" in row for row in rows)
    if wrong:
        echo(f"{wrong} of {len(rows)} rows are wrong; each has an error in its place", err=True)


def _hardware(card: str | None) -> Hardware:
    """Returns the figures of the card; by default, of the card that the predictions come from."""
    if card is None:
        from vram_search.estimate.memory.hardware import Hardware

        return Hardware()
    from vram_search.answers.named import find_card
    from vram_search.estimate.calibration import hardware_for

    return hardware_for(find_card(card))


def _print_comparison(
    files: tuple[Path, Path], models: Path | None, card: str | None, as_json: bool
) -> None:
    from vram_search.answers.estimate_comparison import compare_estimates
    from vram_search.answers.named import clean
    from vram_search.cli.estimate_words import fit_words
    from vram_search.report.parts import PartDifference, difference_lines

    answer = compare_estimates(files, _models_folder(models), card)
    if as_json:
        print_json(answer.as_dict())
        return
    sides = (
        (answer.a, answer.a_moment, answer.a_card, answer.a_spare_bytes),
        (answer.b, answer.b_moment, answer.b_card, answer.b_spare_bytes),
    )
    for name, (file, moment, title, spare) in zip("AB", sides, strict=True):
        echo(clean(f"{name}: {file}, peak ({moment})"))
        if title is not None and spare is not None:
            echo(f"   {fit_words(title, spare)}")
    parts, totals = (
        [PartDifference(part.name, part.a_bytes, part.b_bytes) for part in rows]
        for rows in (answer.parts, answer.totals)
    )
    echo("\n".join([*difference_lines(parts), *difference_lines(totals)[1:]]))
