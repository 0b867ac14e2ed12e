"""The only way to the terminal: control characters are removed and secrets masked on the way."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from vram_search.shown_text import shown, without_controls

if TYPE_CHECKING:
    from rich.console import Console


def echo(text: str = "", *, nl: bool = True, err: bool = False) -> None:
    """Prints text that may hold names and messages of strangers."""
    with contextlib.suppress(OSError) if err else contextlib.nullcontext():
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


class _Dropping(io.FileIO):
    """Output that is discarded from the first write on that fails."""

    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # a full pipe that does not block
                select.select([], [self], [])
        except OSError:
            ignore_output(self.fileno())
            return len(data)
        return written


@contextlib.contextmanager
def output_may_fail() -> Iterator[None]:
    """Lets a search go on when its output cannot be written within the block.

    Nobody reads the pipe any more (`run | head`), the terminal is gone (a connection that broke),
    the disk of a redirected output is full. The log has every line.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_dropping, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed before the program began
                stream.flush()
        sys.stdout, sys.stderr = before


def _dropping(stream: Any) -> Any:
    """The same output, which drops what cannot be written; a Windows console as it is."""
    binary = getattr(stream, "buffer", None)
    raw = getattr(binary, "raw", binary)
    if not (isinstance(stream, io.TextIOWrapper) and isinstance(raw, io.FileIO)):
        return stream
    file = _Dropping(stream.fileno(), "w", closefd=False)
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        file if raw is binary else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def ignore_output(descriptor: int) -> None:
    """Discards what is written to a descriptor from now on."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
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
