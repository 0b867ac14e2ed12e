"""`vram-search estimate`: predicted bytes of a configuration. Imports no torch, Optuna, SQLAlchemy.

What only one mode needs is imported inside the functions, as is all that loads pydantic.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vram_search.errors import InputError
from vram_search.units import format_bytes

if TYPE_CHECKING:
    from vram_search.estimate.memory import Estimate
    from vram_search.estimate.workload import Workload
    from vram_search.spec import Card, Hyperparameters, ModelShape, StudySpec

_SIZE = click.IntRange(1, 2**31)
_EIGHT_BIT = {
    "adamw_torch": "adamw_8bit",
    "adamw_torch_fused": "adamw_8bit",
    "lion_32bit": "lion_8bit",
    "paged_adamw_32bit": "paged_adamw_8bit",
}
"""Each optimizer's 8-bit form."""
PRIOR_RANK = 16
PRIOR_BATCH_SIZE = 16
"""The first published point of `search/priors.py`, whose room loads Optuna."""
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
@click.option("--lora-rank", type=_SIZE, default=8, show_default=True)
@click.option("--lora-target", default="all", show_default=True, help="A set, or q_proj,v_proj.")
@click.option("--cutoff-len", type=_SIZE, default=1024, show_default=True)
@click.option("--batch", type=_SIZE, default=1, show_default=True, help="Micro-batch, sequences.")
@click.option(
    "--accumulate", type=_SIZE, default=1, show_default=True, help="Micro-batches a step."
)
@click.option("--optim", default="adamw_8bit", show_default=True, help="As transformers names it.")
@click.option("--no-checkpointing", is_flag=True, help="Keep all activations.")
@click.option("--liger", is_flag=True, help="enable_liger_kernel: fused linear cross entropy.")
@click.option("--eager", is_flag=True, help="Attention without a fused kernel.")
@click.option(
    "--quantization", type=click.Choice(["nf4", "int8", "none"]), default="nf4", show_default=True
)
@click.option("--eval-batch", type=click.IntRange(0, 2**31), default=0, help="0: no evaluation.")
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
    else:
        if file is not None:
            source, reports = _reports_of_file(file, card)
        else:
            assert model is not None, "_check_mode holds this"
            workload = _workload_of_options(model, ctx.params)
            source, reports = {"model": model}, [_report("as given", workload, _card(card))]
        if as_json:
            click.echo(json.dumps({**source, "plans": [r.as_dict() for r in reports]}, indent=2))
        else:
            click.echo("\n".join(_source_lines(source)))
            for report in reports:
                click.echo("\n" + "\n".join(_report_lines(report, changes)))


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
    default = click.core.ParameterSource.DEFAULT
    unused = [flag for name, flag in foreign if ctx.get_parameter_source(name) is not default]
    if unused:
        raise InputError(
            f"{', '.join(unused)}: not an option of {modes[given[0]]}",
            "leave it out; see `vram-search estimate --help`",
        )


# Where configurations come from


def _card(slug: str | None) -> Card:
    from vram_search.spec import Card
    from vram_search.spec.card import card_names, load_card

    if slug is None:
        raise InputError("which card is meant?", f"--card with one of: {', '.join(card_names())}")
    try:
        return Card.model_validate(load_card(slug))
    except ValueError as error:
        raise InputError(f"--card: {error}", f"shipped: {', '.join(card_names())}") from None


def _models_folder(models: Path | None) -> Path:
    from vram_search.resources import shipped

    return shipped("configs", "models") if models is None else models


def _workload_of_options(model: str, options: dict[str, Any]) -> Workload:
    from vram_search.estimate.workload import Workload
    from vram_search.spec.hyperparameters import parse_lora_target
    from vram_search.spec.optimizers import OPTIMIZERS

    shape = _shape(model)
    if options["optim"] not in OPTIMIZERS:
        raise InputError(f"--optim {options['optim']!r}: not known", f"{', '.join(OPTIMIZERS)}")
    try:
        modules = shape.target_modules(parse_lora_target(options["lora_target"]))
    except ValueError as error:
        raise InputError(
            f"--lora-target {options['lora_target']!r}: {error}",
            "give qv, qkvo, qkvo_gu, all, or module names joined by commas",
        ) from None
    return Workload(
        shape=shape,
        lora_modules=tuple(modules),
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
    )


def _shape(model: str) -> ModelShape:
    """
    Raises:
        InputError: neither a folder, a file nor a shipped shape.
    """
    from vram_search.resources import shipped
    from vram_search.spec.shape import load_shape, shape_names, shipped_shape_for

    path = Path(model)
    try:
        if path.exists():
            return load_shape(path)
    except OSError as error:
        raise InputError(f"{model}: cannot be read ({error})") from None
    slug = shipped_shape_for(model)
    if slug is None:
        raise InputError(
            f"the shape of {model} is not known here",
            "give a folder that holds a config.json, or one of: " + ", ".join(shape_names()),
        )
    return load_shape(shipped("configs", "models", slug))


def _reports_of_file(file: Path, card: str | None) -> tuple[dict[str, Any], list[Report]]:
    if _is_recipe(file):
        from vram_search.estimate.recipe import load_recipe

        recipe = load_recipe(file)
        source: dict[str, Any] = {
            "recipe": str(file),
            "source": recipe.source,
            "notes": list(recipe.notes),
        }
        return source, [_report("as written", recipe.workload, _card(card))]
    study, hp, workloads = _study_workloads(file, card)
    source = {
        "study": study.study,
        "model": study.model.label,
        "hyperparameters": hp.model_dump(mode="json", exclude={"learning_rate"}),
    }
    return source, [_report(name, load, study.card) for name, load in workloads.items()]


def _is_recipe(file: Path) -> bool:
    """A YAML mapping without a key that only studies have."""
    import yaml

    from vram_search.spec import StudySpec

    if file.suffix not in (".yaml", ".yml"):
        return False
    try:
        if not file.is_file():
            return False
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False  # load_study says what is wrong
    required = {name for name, field in StudySpec.model_fields.items() if field.is_required()}
    # LLaMA-Factory has a `dataset` too.
    of_studies = (required - {"dataset"}) | {"search_space"}
    return isinstance(data, dict) and bool(data) and not of_studies & set(data)


def _study_workloads(
    file: Path, card: str | None
) -> tuple[StudySpec, Hyperparameters, dict[str, Workload]]:
    """The study, its first point, and the workload of each plan: the chosen and the smallest."""
    from vram_search.estimate.planner import choose_plan, plans, smallest
    from vram_search.estimate.workload import Workload
    from vram_search.spec import load_study

    overrides = [] if card is None else [f"card={_card(card).name}"]
    study = load_study(file, overrides)
    shape = _shape(study.model.shape or study.model.model_name_or_path or "")
    hp = first_point(study)
    try:
        candidates = plans(shape, hp, study.card, study.plan, eval_cutoff_len=study.eval_cutoff_len)
    except ValueError as error:
        raise InputError(f"{file}: search_space.lora_target: {error}") from None
    chosen, least = choose_plan(candidates, study.card.budget_bytes), smallest(candidates)
    found = {} if chosen is None else {f"chosen plan, {chosen.plan.label}": chosen.plan}
    if chosen is None or chosen.plan != least.plan:
        found[f"smallest plan, {least.plan.label}"] = least.plan
    workloads = {}
    for name, plan in found.items():
        workloads[name] = Workload(
            shape=shape,
            lora_modules=tuple(shape.target_modules(hp.lora_target)),
            lora_rank=hp.lora_rank,
            optimizer=hp.optim,
            per_device_train_batch_size=plan.per_device_train_batch_size,
            cutoff_len=hp.cutoff_len,
            gradient_checkpointing=plan.gradient_checkpointing,
            gradient_accumulation_steps=plan.gradient_accumulation_steps,
            fused_linear_cross_entropy=plan.enable_liger_kernel,
            per_device_eval_batch_size=plan.per_device_eval_batch_size,
            eval_cutoff_len=study.eval_cutoff_len,
            equal_lengths=False,
            expandable_segments=plan.expandable_segments,
        )
    return study, hp, workloads


def first_point(study: StudySpec) -> Hyperparameters:
    """The point that a search of this study tries first (as `search.priors`)."""
    from math import log

    from vram_search.spec import Hyperparameters

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


# What is said of one


@dataclass(frozen=True)
class Change:
    """A change to a configuration and the bytes it saves; `fits` with it, and the former ones."""

    name: str
    saved_bytes: int
    fits: bool
    together_saved_bytes: int
    together_fits: bool


@dataclass(frozen=True)
class Report:
    """A configuration's estimate against a card."""

    name: str
    card: Card
    estimate: Estimate
    changes: list[Change]

    @property
    def margin_bytes(self) -> int:
        """What the card has left; below 0 where it does not fit."""
        return self.card.budget_bytes - self.estimate.required_bytes

    @property
    def fits(self) -> bool:
        return self.margin_bytes >= 0

    @property
    def margin_percent(self) -> float | None:
        """Of the card's budget; None where the card has none."""
        budget = self.card.budget_bytes
        return round(100 * self.margin_bytes / budget, 2) if budget > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "card": self.card.name,
            "fits": self.fits,
            "budget_bytes": self.card.budget_bytes,
            "margin_bytes": self.margin_bytes,
            "margin_percent": self.margin_percent,
            **self.estimate.as_dict(),
            "trainable_parameters": self.estimate.trainable_parameters,
            "changes": [vars(change) for change in self.changes],
        }


def _report(name: str, workload: Workload, card: Card) -> Report:
    from vram_search.estimate.hardware import Hardware
    from vram_search.estimate.memory import predict

    estimate = predict(workload, Hardware.of(card))
    required, budget = estimate.required_bytes, card.budget_bytes
    changes, together = [], workload
    for label, fields in _possible_changes(workload):
        alone = predict(replace(workload, **fields), Hardware.of(card)).required_bytes
        if alone >= required:
            continue
        together = replace(together, **fields)
        both = predict(together, Hardware.of(card)).required_bytes
        changes.append(
            Change(label, required - alone, alone <= budget, required - both, both <= budget)
        )
    return Report(name, card, estimate, changes)


def _possible_changes(workload: Workload) -> list[tuple[str, dict[str, Any]]]:
    """What may save bytes, the cheapest first: what costs nothing, then time, then text."""
    found: list[tuple[str, dict[str, Any]]] = []
    if not workload.fused_linear_cross_entropy:
        found.append(("enable_liger_kernel", {"fused_linear_cross_entropy": True}))
    if workload.per_device_eval_batch_size > 1:
        found.append(("per_device_eval_batch_size 1", {"per_device_eval_batch_size": 1}))
    if workload.optimizer in _EIGHT_BIT:
        optimizer = _EIGHT_BIT[workload.optimizer]
        found.append((f"optim {optimizer}", {"optimizer": optimizer}))
    batch = workload.per_device_train_batch_size
    if batch > 1:
        factor = _smallest_factor(batch)
        steps = factor * workload.gradient_accumulation_steps
        fields = {
            "per_device_train_batch_size": batch // factor,
            "gradient_accumulation_steps": steps,
        }
        label = ", ".join(f"{name} {value}" for name, value in fields.items())
        found.append((label, fields))
    if not workload.gradient_checkpointing:
        found.append(("gradient_checkpointing", {"gradient_checkpointing": True}))
    if workload.cutoff_len > 1:
        half = workload.cutoff_len // 2
        is_shared = workload.eval_cutoff_len == workload.cutoff_len
        length = (
            {"cutoff_len": half, "eval_cutoff_len": half} if is_shared else {"cutoff_len": half}
        )
        found.append((f"cutoff_len {half}", length))
    return found


def _smallest_factor(number: int) -> int:
    """2 where it is even; micro-batch x accumulation must stay the same."""
    factors = (factor for factor in range(2, int(number**0.5) + 1) if number % factor == 0)
    return next(factors, number)


# What is printed


def _source_lines(source: dict[str, Any]) -> list[str]:
    if "recipe" in source:
        notes = [f"  note: {note}" for note in source["notes"]]
        return [f"{source['recipe']} ({source['source']})", *notes]
    if "study" not in source:
        return [str(source["model"])]
    hp = source["hyperparameters"]
    words = ", ".join(f"{name} {value}" for name, value in hp.items())
    return [f"study {source['study']}, {source['model']}; its first point:", f"  {words}"]


def _report_lines(report: Report, with_changes: bool) -> list[str]:
    from vram_search.report.parts import signed_bytes, stacked_bar

    estimate, card = report.estimate, report.card
    percent = report.margin_percent
    share = "" if percent is None else f", {percent:+.1f} % of the card's budget"
    verdict = "fits" if report.fits else "does not fit"
    lines = [
        f"{report.name}: {verdict} {card.label}",
        f"  margin {report.margin_bytes:+,} bytes ({signed_bytes(report.margin_bytes)}{share})",
        f"  peak at the moment: {estimate.moment}; allocated "
        f"{format_bytes(estimate.allocated_bytes)}, {estimate.trainable_parameters:,} trainable",
        "",
        *stacked_bar(estimate.parts, estimate.required_bytes, card.budget_bytes),
    ]
    if with_changes or not report.fits:
        lines += ["", *_change_lines(report)]
    return lines


def _change_lines(report: Report) -> list[str]:
    if not report.changes:
        return ["no change that is tried here saves bytes"]
    lines = ["changes, the cheapest first:"]
    for change in report.changes:
        fits = "; fits" if change.fits and not report.fits else ""
        lines.append(f"  {change.name}: -{format_bytes(change.saved_bytes)}{fits}")
    if report.fits or any(change.fits for change in report.changes):
        return lines
    enough = [n for n, change in enumerate(report.changes, 1) if change.together_fits]
    count = enough[0] if enough else len(report.changes)
    saved = format_bytes(report.changes[count - 1].together_saved_bytes)
    verdict = "fits" if enough else "still does not fit"
    return [*lines, f"  the first {count} together: -{saved}; {verdict}"]


def _print_points(file: Path, models: Path | None, card: str | None) -> None:
    from vram_search.cli.points import predict_points
    from vram_search.estimate.hardware import Hardware

    hardware = Hardware() if card is None else Hardware.of(_card(card))
    rows = predict_points(file, _models_folder(models), hardware)
    click.echo("\n".join(json.dumps(row) for row in rows))


def _print_comparison(
    files: tuple[Path, Path], models: Path | None, card: str | None, as_json: bool
) -> None:
    from vram_search.report.parts import PartDifference, difference_lines, part_differences

    (a, a_totals), (b, b_totals) = (_sides(file, models, card) for file in files)
    parts = part_differences(a, b)
    totals = [
        PartDifference(name, a_totals[name], b_totals[name])
        for name in a_totals
        if name in b_totals
    ]
    if as_json:
        sides = {"a": str(files[0]), "b": str(files[1])}
        rows = {"parts": [p.as_dict() for p in parts], "totals": [t.as_dict() for t in totals]}
        click.echo(json.dumps({**sides, **rows}, indent=2))
    else:
        click.echo(f"A: {files[0]}\nB: {files[1]}")
        click.echo("\n".join([*difference_lines(parts), *difference_lines(totals)[1:]]))


def _sides(
    file: Path, models: Path | None, card: str | None
) -> tuple[dict[str, int], dict[str, int]]:
    """Parts and totals of a JSON row, a study's chosen plan (else its smallest) or a recipe."""
    from vram_search.cli.points import load_point
    from vram_search.estimate.memory import predict

    if file.suffix not in (".json", ".jsonl"):
        if _is_recipe(file):
            from vram_search.estimate.recipe import load_recipe

            workload = load_recipe(file).workload
        else:
            workload = next(iter(_study_workloads(file, card)[2].values()))
    else:
        point = load_point(file, _models_folder(models))
        if isinstance(point, dict):
            names = ("allocated_bytes", "required_bytes")
            return point["parts"], {name: point[name] for name in names if name in point}
        workload = point.workload
    # The context is in neither the parts nor these totals.
    estimate = predict(workload)
    return estimate.parts, {
        "allocated_bytes": estimate.allocated_bytes,
        "required_bytes": estimate.required_bytes,
    }
