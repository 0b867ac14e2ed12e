"""`vram-search chat N|best`: a conversation with the tuned model in the terminal."""

from __future__ import annotations

import click

from vram_search.answers.lookup import find_study, find_trial, opened
from vram_search.cli.console import ask, echo
from vram_search.cli.options import database_option, max_tokens_option, study_option

ENDS = ("/bye", "/exit", "/quit")
"""Lines that end a conversation, as in Ollama and other chats."""


@click.command("chat", short_help="Talk to the tuned model in the terminal.")
@click.argument("trial", metavar="N|best")
@click.option("--untuned", is_flag=True, help="Talk to the model without the adapter.")
@click.option("--system", metavar="TEXT", help="System message of the conversation.")
@max_tokens_option(512)
@study_option
@database_option
def command(
    trial: str,
    untuned: bool,
    system: str | None,
    max_tokens: int,
    study: str | None,
    database: str | None,
) -> None:
    """Talks with trial N's kept adapter on the quantised base model.

    /new starts a new conversation; /bye, an empty line, Ctrl-D or Ctrl-C ends it. The model
    always writes the most likely token.

    \b
    Examples:
      vram-search chat best
      vram-search chat best --untuned
    """
    from vram_search.store.location import database_url, study_folder
    from vram_search.worker.talk import talking

    with opened(database) as store:
        record = find_study(store, study)
        found = find_trial(store, record, trial)
    log = study_folder(database_url(database), record.name).log
    echo("loading the model ...", err=True)
    start = [("system", system)] if system else []
    with talking(record, found, log, max_tokens) as talk:
        echo(f"trial {found.number} of study {record.name}; /new, or /bye to end")
        turns = list(start)
        while (line := _read_line()) and line not in ENDS:
            if line == "/new":
                turns = list(start)
                continue
            turns.append(("user", line))
            (answer,) = talk.answers([tuple(turns)], tuned=not untuned)
            turns.append(("assistant", answer))
            echo(answer)


def _read_line() -> str:
    """Returns the next line; empty at the end of the input."""
    try:
        return ask("you", default="", show_default=False, prompt_suffix="> ").strip()
    except click.exceptions.Abort:
        echo()
        return ""
