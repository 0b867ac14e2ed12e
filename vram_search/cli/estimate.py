"""`vram-search estimate`: predicted bytes of a configuration. Imports no torch, Optuna, SQLAlchemy.

What only one mode needs is imported inside the functions, as is all that loads pydantic.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vram_search.errors import InputError

if TYPE_CHECKING:
    from vram_search.estimate.memory.hardware import Hardware
    from vram_search.estimate.memory.workload import Workload
    from vram_search.estimate.verdict import Verdict
    from vram_search.spec import Card

_TOTALS = ("allocated_bytes", "required_bytes", "process_bytes")
_SIZE = click.IntRange(1, 2**31)
_MODEL_OPTIONS = {
    "lora_rank": "--lora-rank",
    "lora_target": "--lora-target",
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
@click.option("--model", metavar="SLUG|FOLDER", help="A shipped shape, or a model's folder.")
@click.option(
    "--lora-rank", type=_SIZE, metavar="N", default=8, show_default=True, help="Of the adapter."
)
@click.option("--lora-target", default="all", show_default=True, help="A set, or q_proj,v_proj.")
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
    help="Micro-batches a step.",
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
    help="Of the base model.",
)
@click.option(
    "--eval-batch",
    type=click.IntRange(0, 2**31),
    metavar="N",
    default=0,
    help="Sequences of an evaluation batch; 0: no evaluation.",
)
@click.option("--prepare-kbit", is_flag=True, help="peft's prepare_model_for_kbit_training ran.")
@click.option("--card", metavar="SLUG", help="A card of configs/cards; a study names its own.")
@click.option("--changes", is_flag=True, help="What would save bytes, also where it fits.")
@click.option("--points", metavar="FILE.jsonl", type=Path, help="A configuration a line.")
@click.option("--models", metavar="FOLDER", type=Path, help="Holds the models that rows name.")
@click.option("--compare", metavar="A B", nargs=2, type=Path, help="Two studies or JSON rows.")
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
    as_json: bool,
    **_: object,
) -> None:
    """Predicted peak bytes of a study, a recipe, options or rows, and what would make it fit.

    A recipe is a YAML file of LLaMA-Factory or Axolotl. Exit code 0 whether it fits or not.

    \b
    Examples:
      vram-search estimate studies/demo.yaml
      vram-search estimate --model qwen2.5-3b --batch 4 --card rtx-5060-ti-16gb
      vram-search estimate --points rows.jsonl --models configs/models
      vram-search estimate --compare a.json b.json
    """
    _check_mode(ctx)
    if points is not None:
        _print_points(points, models, card)
    elif compare is not None:
        _print_comparison(compare, models, card, as_json)
    elif file is not None:
        _print_verdicts(*_verdicts_of_file(file, card), as_json=as_json, with_changes=changes)
    else:
        assert model is not None, "_check_mode holds this"
        source, verdicts = _verdicts_of_options(model, card, ctx.params)
        _print_verdicts(source, verdicts, as_json=as_json, with_changes=changes)


def _check_mode(ctx: click.Context) -> None:
    """
    Raises:
        InputError: no mode or two, or an option of another mode.
    """
    modes = {"file": "a file", "model": "--model", "points": "--points", "compare": "--compare"}
    given = [name for name in modes if ctx.params[name] is not None]
    if len(given) != 1:
        what = " and ".join(modes[name] for name in given) or "nothing"
        raise InputError(
            f"{what} to estimate: one thing is expected",
            "give one of: a study or recipe file, --model, --points, --compare",
        )
    foreign = [] if given == ["model"] else list(_MODEL_OPTIONS.items())
    if given[0] not in ("points", "compare"):
        foreign.append(("models", "--models"))
    else:
        foreign.append(("changes", "--changes"))
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


def _verdicts_of_options(
    model: str, card: str | None, options: dict[str, Any]
) -> tuple[dict[str, Any], list[Verdict]]:
    from vram_search.answers.named import clean, find_card
    from vram_search.estimate.memory_budget import MemoryBudget
    from vram_search.estimate.verdict import judge

    found = find_card(card)
    workload = _workload_of_options(model, found, options)
    return {"model": model}, [judge(clean(model), workload, MemoryBudget.of(found, workload.shape))]


def _workload_of_options(model: str, card: Card, options: dict[str, Any]) -> Workload:
    from vram_search.answers.named import check_name, lora_modules
    from vram_search.estimate.memory.workload import Workload
    from vram_search.models import find_shape
    from vram_search.spec.optimizers import OPTIMIZERS

    shape = find_shape(model)
    check_name("optimizer", options["optim"], list(OPTIMIZERS))
    return Workload(
        shape=shape,
        lora_modules=lora_modules(shape, options["lora_target"]),
        lora_rank=options["lora_rank"],
        optimizer=options["optim"],
        per_device_train_batch_size=options["batch"],
        cutoff_len=options["cutoff_len"],
        gradient_checkpointing=not options["no_checkpointing"],
        gradient_accumulation_steps=options["accumulate"],
        quantization=options["quantization"],
        attention="eager" if options["eager"] else "sdpa",
        prepare_for_kbit_training=options["prepare_kbit"],
        fused_linear_cross_entropy=options["liger"],
        per_device_eval_batch_size=options["eval_batch"],
        eval_cutoff_len=options["cutoff_len"],
        equal_lengths=False,
        expandable_segments=card.platform == "linux",
    )


def _verdicts_of_file(file: Path, card: str | None) -> tuple[dict[str, Any], list[Verdict]]:
    from vram_search.answers.named import clean, find_card
    from vram_search.answers.training_file import is_recipe, study_workloads
    from vram_search.estimate.memory_budget import MemoryBudget
    from vram_search.estimate.verdict import judge

    if is_recipe(file):
        from vram_search.estimate.recipes.load import load_recipe

        recipe = load_recipe(file)
        limit = MemoryBudget.of(find_card(card), recipe.workload.shape)
        source: dict[str, Any] = {
            "recipe": str(file),
            "source": recipe.source,
            "notes": recipe.notes,
        }
        return source, [judge(clean(file.name), recipe.workload, limit)]
    study, hp, workloads = study_workloads(file, card)
    source = {
        "study": study.study,
        "model": study.model.label,
        "hyperparameters": hp.model_dump(mode="json", exclude={"learning_rate"}),
    }
    verdicts = [
        judge(name, workload, MemoryBudget.of(study.card, workload.shape))
        for name, workload in workloads.items()
    ]
    return source, verdicts


def _print_verdicts(
    source: dict[str, Any], verdicts: list[Verdict], *, as_json: bool, with_changes: bool
) -> None:
    if as_json:
        plans = [verdict.as_dict() for verdict in verdicts]
        click.echo(json.dumps({**source, "plans": plans}, indent=2))
        return
    from vram_search.report.verdict import budget_lines, verdict_line, verdict_lines

    subject = [*_source_lines(source), *budget_lines(verdicts[0].limit)]
    texts = []
    for verdict in verdicts:
        details = verdict_lines(verdict, with_changes=with_changes)
        texts.append("\n".join([verdict_line(verdict), *subject, *details]))
        subject = []
    click.echo("\n\n".join(texts))


def _source_lines(source: dict[str, Any]) -> list[str]:
    """What was read, where the verdict's own name does not say it."""
    from textwrap import wrap

    from vram_search.answers.named import clean

    if "recipe" in source:
        texts = [f"{source['source']} recipe", *(f"note: {note}" for note in source["notes"])]
    elif "study" in source:
        values = ", ".join(f"{name} {value}" for name, value in source["hyperparameters"].items())
        texts = [f"study {source['study']}, {source['model']}; published configuration:", values]
    else:
        texts = []
    return [
        line
        for text in texts
        for line in wrap(clean(text), 80, initial_indent="  ", subsequent_indent="    ")
    ]


def _print_points(file: Path, models: Path | None, card: str | None) -> None:
    from vram_search.answers.points import predict_points

    rows = predict_points(file, _models_folder(models), _hardware(card))
    click.echo("\n".join(json.dumps(row) for row in rows))


def _hardware(card: str | None) -> Hardware:
    """Of the card; without one, of the card that the predictions were developed on."""
    if card is None:
        from vram_search.estimate.memory.hardware import Hardware

        return Hardware()
    from vram_search.answers.named import find_card
    from vram_search.estimate.calibration import hardware_for

    return hardware_for(find_card(card))


def _print_comparison(
    files: tuple[Path, Path], models: Path | None, card: str | None, as_json: bool
) -> None:
    from vram_search.answers.named import clean
    from vram_search.report.parts import PartDifference, difference_lines, part_differences

    a, b = (_side(file, models, card) for file in files)
    parts = part_differences(a["parts"], b["parts"])
    totals = [PartDifference(name, a[name], b[name]) for name in _TOTALS if name in a and name in b]
    if as_json:
        sides = {"a": str(files[0]), "b": str(files[1])}
        rows = {"parts": [p.as_dict() for p in parts], "totals": [t.as_dict() for t in totals]}
        click.echo(json.dumps({**sides, **rows}, indent=2))
        return
    for name, file, side in zip("AB", files, (a, b), strict=True):
        click.echo(clean(f"{name}: {file}, peak ({side['moment']})"))
    click.echo("\n".join([*difference_lines(parts), *difference_lines(totals)[1:]]))


def _side(file: Path, models: Path | None, card: str | None) -> dict[str, Any]:
    """What --json prints of a JSON row, a study's chosen plan (else its smallest) or a recipe."""
    from vram_search.answers.points import load_point
    from vram_search.answers.training_file import is_recipe, study_workloads
    from vram_search.estimate.memory.predict import predict_plausible

    if file.suffix in (".json", ".jsonl"):
        point = load_point(file, _models_folder(models))
        if isinstance(point, dict):
            return point
        workload = point.workload
    elif is_recipe(file):
        from vram_search.estimate.recipes.load import load_recipe

        workload = load_recipe(file).workload
    else:
        workload = next(iter(study_workloads(file, card)[2].values()))
    return predict_plausible(workload, _hardware(card)).as_dict()
