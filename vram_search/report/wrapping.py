"""Wraps the text of an answer to the terminal. Imports nothing heavy."""

from __future__ import annotations

import re
import shutil
import textwrap

WIDTH = 80
"""Columns of an answer, where the terminal has as many."""
_LEAST_WIDTH = 40
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:s|min|h|GB|[KMGT]iB)\b)")


def terminal_width() -> int:
    """Columns of the terminal; WIDTH without one."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def answer_width() -> int:
    """Columns of an answer: those of the terminal, at most WIDTH."""
    return max(_LEAST_WIDTH, min(WIDTH, terminal_width()))


def wrapped(text: str, first: str = "  ", following: str | None = None) -> list[str]:
    """Lines of an answer; a figure stays beside its unit, and a path stays whole.

    Args:
        first: what the first line begins with.
        following: what the others begin with; None: as the first.
    """
    lines = textwrap.wrap(
        _BEFORE_UNIT.sub("\xa0", text),
        answer_width(),
        initial_indent=first,
        subsequent_indent=first if following is None else following,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\xa0", " ") for line in lines]
