"""The only way to the terminal: control characters are removed and secrets masked on the way."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from vram_search.shown_text import shown, without_controls

if TYPE_CHECKING:
    from rich.console import Console


def echo(text: str = "", *, nl: bool = True, err: bool = False) -> None:
    """Prints text that may hold names and messages of strangers."""
    with contextlib.suppress(BrokenPipeError) if err else contextlib.nullcontext():
        click.echo(shown(text), nl=nl, err=err)


def echo_styled(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Prints our own text with its colours and cursor movements; it holds no foreign text."""
    click.echo(text, nl=nl, err=err)


def styled(text: str, style: str) -> str:
    """Returns our own text in a colour, or bold or dim; `echo_styled` prints it."""
    if style in ("bold", "dim"):
        return click.style(text, **{style: True})
    return click.style(text, fg=style)


def can_print(text: str) -> bool:
    """True if the encoding of stdout has every character of a text."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def confirm(question: str) -> bool:
    """Asks a question that may hold names of strangers."""
    return click.confirm(shown(question))


def ask(question: str, **options: Any) -> str:
    """Asks for a text; options as of `click.prompt`."""
    return str(click.prompt(shown(question), **options))


def ignore_output() -> None:
    """Discards what is printed from now on: nobody reads the pipe any more."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def make_console(**options: Any) -> Console:
    """A rich Console that prints text as it is: brackets are no markup, controls are removed."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class SafeConsole(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control:
                    yield segment
                else:
                    yield Segment(without_controls(segment.text), segment.style)

    return SafeConsole(markup=False, emoji=False, highlight=False, **options)
