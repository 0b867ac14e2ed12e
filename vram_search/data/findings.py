"""Collects remarks about the rows that were read, each once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vram_search.errors import Fault

NOT_PREFERENCES = "preference training (DPO, KTO, ORPO) is not done here"
PREFERENCE_COLUMNS = {"chosen": "rejected", "preferred_output": "non_preferred_output"}
"""The field of a good answer -> that of a bad one; the last pair is OpenAI's."""
MEDIA_COLUMNS = ("image", "images", "video", "videos", "audio", "audios")


@dataclass
class Findings:
    """Collected while the rows of one file or data set are read.

    Attributes:
        rows: read, bad ones included.
        forms: rows by the name of their form.
        unused: rows that have each field that is not used.
        counts: rows by a sentence about them, which follows their number.
        faults: one for each bad row.
        bad_answers: rows whose KTO label is false.
        empty_answers: bad rows that lack nothing but the answer's text.
        remedy: how a study reads the first row of no known form; empty if there is none.
    """

    rows: int = 0
    forms: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    bad_answers: int = 0
    empty_answers: int = 0
    remedy: str = ""

    def notes(self) -> list[str]:
        """Sentences for a person, without the file's name."""
        said = [f"{count} {rows_word(count)} {what}" for what, count in self.counts.items()]
        if self.unused:
            said.append(f"columns that are not used: {', '.join(sorted(self.unused))}")
        if self.bad_answers:
            said.append(
                f"{NOT_PREFERENCES}: {self.bad_answers} {rows_word(self.bad_answers)} with label "
                "false are trained as good answers; take them out"
            )
        elif any(name in self.unused for pair in PREFERENCE_COLUMNS.items() for name in pair):
            said.append(NOT_PREFERENCES)
        if any(name in self.unused for name in MEDIA_COLUMNS):
            said.append("images, sounds and videos are not trained: the text alone is")
        return said


def rows_word(count: int) -> str:
    """The noun of a count."""
    return "row" if count == 1 else "rows"
