"""`vram-search data FILE`: what would be trained, before any training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vram_search.cli.console import echo, echo_styled
from vram_search.cli.options import json_option, print_json
from vram_search.errors import InputError
from vram_search.resources import expanded
from vram_search.units import counted, percent

if TYPE_CHECKING:
    from vram_search.answers.data import DataAnswer
    from vram_search.answers.named_rows import NamedRows
    from vram_search.spec.dataset import DatasetSpec

_BAR_WIDTH = 40
_LONGEST_TEXT = 600
"""Characters of a row's piece that are shown."""


@click.command("data", short_help="What would be trained: forms, tokens, cutoffs, rows as text.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--model", metavar="NAME", help="Folder or hub name; its tokenizer counts tokens.")
@click.option("--eval", "evaluation", metavar="FILE", help="Evaluation rows; default: a split.")
@click.option("--template", metavar="NAME", help="Chat template by name, or a .jinja file.")
@click.option(
    "--dataset-dir", metavar="FOLDER", help="Folder of a dataset_info.json (LLaMA-Factory)."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A key of the data set, e.g. 'dataset.columns={text: essay}'.",
)
@click.option(
    "--rows",
    "shown",
    metavar="N",
    type=click.IntRange(0, 100),
    default=3,
    show_default=True,
    help="Rows to show.",
)
@json_option
def command(
    files: tuple[str, ...],
    model: str | None,
    evaluation: str | None,
    template: str | None,
    dataset_dir: str | None,
    overrides: tuple[str, ...],
    shown: int,
    as_json: bool,
) -> None:
    """Reads rows as a search would, and shows what it would train.

    FILE is a data file (or several), a folder, a hub name, or a YAML: a study, or a training file
    of LLaMA-Factory, Axolotl or TRL, whose model then counts. The text between >>> and <<< is
    what is learnt.

    \b
    Examples:
      vram-search data rows.jsonl
      vram-search data rows.csv --model Qwen/Qwen3-4B
      vram-search data qwen3_lora_sft.yaml
      vram-search data my-study.yaml --json
    """
    from vram_search.answers.data import data_answer
    from vram_search.spec.dataset import DEFAULT_SEED

    named = _named_by(files)
    if named is None:
        given = {"eval": evaluation, "template": template, "dataset_dir": dataset_dir}
        dataset, seed = _dataset(files, given, overrides), DEFAULT_SEED
        tokenizer = model
    elif overrides:
        raise InputError(f"--set is for data files, not {files[0]}", "change that file")
    else:
        dataset, seed = named.dataset, named.seed
        tokenizer = model or named.tokenizer
    if tokenizer is not None:
        tokenizer = _tokenizer_folder(tokenizer)
    cutoffs = named.cutoff_lens if named else ()
    answer = data_answer(
        dataset, seed, tokenizer, cutoffs, shown, _show_progress, is_optional=model is None
    )
    answer.notes[:0] = named.notes if named else ()
    if sys.stderr.isatty():
        echo_styled("\r" + " " * _BAR_WIDTH + "\r", nl=False, err=True)
    if as_json:
        print_json(answer.as_dict())
    else:
        echo("\n".join(_lines(answer)))


def _show_progress(rows: int) -> None:
    if sys.stderr.isatty():
        echo_styled(f"\r{rows:,} rows are counted", nl=False, err=True)


def _named_by(files: tuple[str, ...]) -> NamedRows | None:
    """The rows that a YAML names; None for data files."""
    if len(files) != 1 or not files[0].lower().endswith((".yaml", ".yml")):
        return None
    from vram_search.answers.named_rows import load_named_rows

    return load_named_rows(Path(files[0]))


def _dataset(
    files: tuple[str, ...], keys: dict[str, Any], overrides: tuple[str, ...]
) -> DatasetSpec:
    from pydantic import ValidationError

    from vram_search.spec.base import plain_message
    from vram_search.spec.dataset import DatasetSpec
    from vram_search.spec.load import apply_override

    study = {"dataset": {"train": files[0] if len(files) == 1 else list(files), **keys}}
    for override in overrides:
        apply_override(study, override)
    if len(study) > 1:
        raise InputError(
            f"--set {list(study)[1]}: is not a key of the data set",
            "write keys that begin with dataset., such as dataset.columns",
        )
    try:
        return DatasetSpec.model_validate(study["dataset"], context={"folder": Path.cwd()})
    except ValidationError as error:
        first = error.errors()[0]
        if overrides:
            raise InputError(
                f"dataset.{'.'.join(map(str, first['loc']))}: {plain_message(first)}",
                f"keys of a data set: {', '.join(DatasetSpec.model_fields)}",
            ) from None
        raise InputError(
            f"{first['input']}: {plain_message(first)}",
            "name a data file, a folder, a hub name like org/name, or a study file",
        ) from None


def _tokenizer_folder(name: str) -> str:
    """Returns the absolute folder of a tokenizer; a GGUF file is converted first, once."""
    path = expanded(name)
    if path.suffix == ".gguf" and path.is_file():
        from vram_search.worker.gguf_base import converted_gguf

        return str(converted_gguf(path, lambda text: echo(text, err=True)))
    return str(path.resolve()) if path.is_dir() else name


def _lines(answer: DataAnswer) -> Iterator[str]:
    from vram_search.report.wrapping import wrapped

    def field(name: str, text: str) -> list[str]:
        return wrapped(text, f"  {name:<12}", " " * 14)

    yield from wrapped(f"data {answer.name}, hash {answer.data_hash}", "")
    bad = f"; {answer.bad_rows} cannot be used" if answer.bad_rows else ""
    if answer.empty_answers:
        bad += f", of which {answer.empty_answers} have an empty answer"
    yield from field(
        "rows", f"{answer.train_rows:,} training, {answer.eval_rows:,} evaluation{bad}"
    )
    yield from field("form", "; ".join(f"{form}: {n:,}" for form, n in answer.forms.items()))
    yield from field("turns", ", ".join(f"{role} {n:,}" for role, n in answer.roles.items()))
    yield from field(
        "repeated",
        f"{counted(answer.duplicates, 'training row repeats', 'training rows repeat')} another; "
        f"{counted(answer.overlap, 'evaluation row is a', 'evaluation rows are')} training "
        f"{'row' if answer.overlap == 1 else 'rows'} too",
    )
    for note in answer.notes:
        yield from field("note", note)
    yield ""
    yield from _length_lines(answer)
    for number, row in enumerate(answer.shown, start=1):
        yield from ("", f"row {number}, learnt between >>> and <<<:")
        for piece in row:
            text = piece.text
            if len(text) > _LONGEST_TEXT:
                text = f"{text[: _LONGEST_TEXT // 2]} [...] {text[-_LONGEST_TEXT // 2 :]}"
            yield f">>>{text}<<<" if piece.is_learnt else text.rstrip("\n")


def _length_lines(answer: DataAnswer) -> Iterator[str]:
    from vram_search.report.wrapping import wrapped

    lengths = answer.lengths
    shares = ", ".join(
        f"{share} %: {length:,}" for share, length in lengths.percentiles.items() if share
    )
    yield from wrapped(f"{lengths.unit} per training row, percentiles: {shares}", "", "  ")
    most = max(rows for _, _, rows in lengths.histogram)
    for low, high, rows in lengths.histogram:
        bar = "#" * round(rows / most * _BAR_WIDTH)
        yield f"  {low:>9,} to {high:>9,}  {bar or ('.' if rows else '')} {rows:,}".rstrip()
    if answer.answer_tokens is None:
        yield from wrapped(
            "to count tokens and see the chat template, name a tokenizer: --model", "  "
        )
        return
    yield f"  {counted(answer.answer_tokens, 'token is', 'tokens are')} learnt"
    for cut in answer.cutoffs:
        share = cut.rows_cut / answer.train_rows
        rows_cut = counted(cut.rows_cut, "row", "rows")
        yield (
            f"  cutoff_len {cut.cutoff_len:>6,} cuts {rows_cut} ({percent(share, 1)}), "
            f"{counted(cut.tokens_cut, 'token', 'tokens')}"
        )
    yield f"  suggested cutoff_len: {answer.suggested_cutoff_len:,}"
