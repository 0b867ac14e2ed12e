"""The error of a text that is not YAML, JSON or TOML, and limits of the parsers."""

from __future__ import annotations

from vram_search.errors import InputError

MAX_DIGITS = 308
"""Digits of the largest number that fits a double; larger ones break printing and arithmetic."""
TOO_DEEP = "it is too deeply nested"
TOO_LONG = f"a whole number has more than {MAX_DIGITS} digits"
HALF_PAIR = "a text holds half of a surrogate pair"


class ParseError(InputError):
    """A text that is not YAML, JSON or TOML.

    Args:
        problem: what is wrong, without the place.
        line, column: counted from 1; None where the parser does not know them.
    """

    def __init__(self, problem: str, line: int | None = None, column: int | None = None) -> None:
        place = "" if line is None else f"line {line}, column {column}: "
        super().__init__(place + problem)
        self.problem, self.line, self.column = problem, line, column
