"""`vram-search samples N|best`: answers of the untuned and the tuned model side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vram_search.answers.lookup import find_study, find_trial
from vram_search.cli.console import echo
from vram_search.cli.options import (
    NamedPath,
    database_option,
    json_option,
    max_tokens_option,
    print_json,
    study_option,
)
from vram_search.errors import InputError, reason_of

if TYPE_CHECKING:
    from vram_search.answers.samples import SamplesAnswer
    from vram_search.worker.talk import Conversation

DEFAULT_ROWS = 3


@click.command("samples", short_help="Answers of the untuned and the tuned model.")
@click.argument("trial", metavar="N|best")
@click.option(
    "--prompts", metavar="FILE", type=NamedPath(path_type=Path), help="Prompts, one per line."
)
@click.option(
    "--rows",
    type=click.IntRange(1, 50),
    metavar="N",
    default=DEFAULT_ROWS,
    show_default=True,
    help="Evaluation rows that are asked without --prompts.",
)
@max_tokens_option(200)
@study_option
@database_option
@json_option
def command(
    trial: str,
    prompts: Path | None,
    rows: int,
    max_tokens: int,
    study: str | None,
    database: str | None,
    as_json: bool,
) -> None:
    """Prints what the untuned model and trial N answer to the same prompts.

    The prompts are a few evaluation rows, which no trial was trained on, or those of a file. The
    model always writes the most likely token. The answers are kept and shown in the report.

    \b
    Examples:
      vram-search samples best
      vram-search samples best --prompts my-prompts.txt
    """
    from vram_search.answers.samples import samples_answer
    from vram_search.store import open_store
    from vram_search.store.location import database_url, study_folder
    from vram_search.store.untuned import record_samples
    from vram_search.worker.talk import evaluation_prompts, sample_answers, talking

    url = database_url(database)
    store = open_store(url, create=False)
    try:
        record = find_study(store, study)
        found = find_trial(store, record, trial)
        asked: list[tuple[Conversation, str | None]]
        if prompts is None:
            asked = list(evaluation_prompts(record, rows))
        else:
            asked = [((("user", line),), None) for line in _lines_of(prompts)]
        echo("loading the model ...", err=True)
        with talking(record, found, study_folder(url, record.name).log, max_tokens) as talk:
            samples = sample_answers(talk, asked)
        record_samples(store, found.id, samples)
    finally:
        store.close()
    answer = samples_answer(record, found, samples)
    if as_json:
        print_json(answer.as_dict())
    else:
        echo("\n".join(_lines(answer)))


def _lines_of(file: Path) -> list[str]:
    """The prompts of a text file.

    Raises:
        InputError: it cannot be read or is empty.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read ({reason_of(error)})", "name a UTF-8 text file"
        ) from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{file}: holds no prompt", "write one prompt per line")
    return lines


def _lines(answer: SamplesAnswer) -> Iterator[str]:
    from vram_search.report.wrapping import wrapped

    yield f"study {answer.study}, trial {answer.trial}"
    for sample in answer.samples:
        yield ""
        parts = {
            "prompt": sample.prompt,
            "untuned": sample.untuned,
            "tuned": sample.tuned,
            "expected": sample.expected,
        }
        for name, text in parts.items():
            if text is not None:
                yield from wrapped(" ".join(text.split()) or "(nothing)", f"{name:<10}", " " * 10)
