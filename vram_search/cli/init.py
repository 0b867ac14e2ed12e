"""`vram-search init`: asks for what it cannot find out and writes a study."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click

from vram_search.cli.console import ask, echo
from vram_search.cli.options import FiniteFloatRange, NamedPath
from vram_search.errors import InputError
from vram_search.resources import expanded, replace_text, shell_word
from vram_search.shown_text import shown
from vram_search.spec.hub_names import hub_name
from vram_search.spec.limits import MOST_HOURS
from vram_search.spec.written_names import close_names, spelt_name
from vram_search.units import counted

NO_GPU = ": no GPU is found here"
_HOURS = 8.0


@click.command("init", short_help="Write a study: asks for model, data and hours.")
@click.option("--model", metavar="NAME|FOLDER", help="Hub name, folder or .gguf file to train.")
@click.option("--data", metavar="FILE|NAME", help="Rows to learn: file, folder or hub name.")
@click.option(
    "--hours",
    type=FiniteFloatRange(0, MOST_HOURS, min_open=True),
    metavar="H",
    help="Hours of a night.",
)
@click.option("--card", metavar="NAME", help="A card; default: the GPU in this machine.")
@click.option("--name", metavar="NAME", help="Name of the study; default: that of the file.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A key of the study, e.g. 'dataset.columns={text: essay}'.",
)
@click.option(
    "-o",
    "--output",
    type=NamedPath(path_type=Path, dir_okay=False),
    default=Path("my-study.yaml"),
    show_default=True,
    help="File to write.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def command(
    model: str | None,
    data: str | None,
    hours: float | None,
    card: str | None,
    name: str | None,
    overrides: tuple[str, ...],
    output: Path,
    force: bool,
) -> None:
    """Writes a commented study file and says whether it fits the card.

    It asks for what no option gives.

    \b
    Examples:
      vram-search init
      vram-search init --model qwen2.5-3b --data rows.jsonl --hours 8
    """
    from vram_search.answers.named import find_card
    from vram_search.answers.starting_study import StartingStudy, cutoff_for, fit_words
    from vram_search.gpu import open_reader
    from vram_search.gpu.this_card import card_here
    from vram_search.report.wrapping import wrapped

    if output.exists() and not force:
        raise InputError(f"{output} exists", "choose another file with -o, or add --force")
    rows_of = functools.cache(lambda data: cutoff_for(data, Path.cwd(), overrides))
    model = model or _ask("model (hub name, folder or .gguf file)", "--model", _check_model)
    data = data or _ask("data (file, folder or hub name)", "--data", rows_of)
    if card is None and open_reader() is None:
        question = "card (no GPU is found here; e.g. rtx-4060-8gb or 16GB)"
        card = _ask(question, "--card", find_card, why=NO_GPU)
    if hours is None:
        hours = float(_ask("hours of a night", "--hours", _check_hours, str(_HOURS)))
    folder = output.resolve().parent
    cutoff_len, rows = rows_of(data)
    if (Path.cwd() / data).exists():
        data = str((Path.cwd() / data).resolve())
    name = name or _name_of(output)
    if not expanded(model).exists() and (named := hub_name(model) or spelt_name(model)):
        if named != model:
            echo(f"model: {model} is taken for {named}, as it is published")
        model = named
    study = StartingStudy(name, model, data, hours, card or "auto", overrides)
    text = study.text(cutoff_len)
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(output, text)
    try:
        verdict = fit_words(output, card_here)
    except InputError:
        output.unlink()
        raise
    counts = counted(rows, "training row", "training rows")
    echo(f"written: {output}; {counts}, cutoff_len {cutoff_len} (95 % of them fit)")
    echo("\n".join(wrapped(verdict, "", "  ")))
    echo(f"next: vram-search run {shell_word(output)} --dry-run")


def _ask(
    question: str,
    option: str,
    check: Callable[[str], object],
    default: str | None = None,
    *,
    why: str = "",
) -> str:
    """Asks a person until an answer can be used; without a terminal the option must be given.

    Args:
        check: raises an InputError if the answer cannot be used.

    Raises:
        InputError: nobody can be asked.
    """
    if not sys.stdin.isatty():
        raise InputError(f"{option} is missing{why}", f"add {option}, or run it in a terminal")

    def checked(answer: str) -> str:
        try:
            check(answer)
        except InputError as error:
            raise click.UsageError(shown(f"{error.message}\nremedy: {error.remedy}")) from None
        return answer

    return ask(question, default=default, value_proc=checked)


def _check_model(answer: str) -> None:
    if expanded(answer).exists() or hub_name(answer) or spelt_name(answer):
        return
    close = ", ".join(close_names(answer)) or "Qwen/Qwen2.5-3B-Instruct"
    raise InputError(f"no file, folder or hub name {answer!r}", f"a hub name is, e.g., {close}")


def _check_hours(answer: str) -> None:
    try:
        is_possible = 0 < float(answer) <= MOST_HOURS
    except ValueError:
        is_possible = False
    if not is_possible:
        raise InputError(
            f"{answer!r} is not a number of hours",
            f"write a number such as 8, at most {MOST_HOURS}",
        )


def _name_of(file: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._")[:64] or "study"
