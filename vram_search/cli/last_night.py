"""Prints the summary of a run."""

from __future__ import annotations

from collections.abc import Sequence

from vram_search.answers.night import NightAnswer
from vram_search.report.wrapping import wrapped


def night_lines(night: NightAnswer, title: str, next_steps: Sequence[str] = ()) -> list[str]:
    """The summary under a title, then what to do next."""
    lines = [f"{title}:"]
    for sentence in night.sentences:
        lines += wrapped(sentence, "  ", "    ")
    for advice in next_steps:
        lines += wrapped(advice, "  next: ", "        ")
    return lines
