"""Rows of plain text of which a part is learnt: Axolotl's `input_output` and its own formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vram_search.data.columns import lookup
from vram_search.data.conversation import RowFaultError, checked_text
from vram_search.data.example import SEGMENT, SEGMENT_READ, TEXT, TEXT_READ, Example
from vram_search.data.findings import Findings
from vram_search.errors import Fault
from vram_search.spec.dataset import Columns

SEGMENTS = "segments"
"""Axolotl's field of `input_output` rows (`prompt_strategies/input_output.py`)."""


def parse_segments(row: dict[str, Any], place: str, findings: Findings) -> Example:
    """A list of {"text", "label"}; segments whose label is true are learnt.

    Raises:
        RowFaultError: it is no such list, or nothing of it is learnt.
    """
    at, segments = f"{place}.{SEGMENTS}", row.get(SEGMENTS)
    if not isinstance(segments, list) or not segments:
        raise RowFaultError(Fault(at, "is not a list of segments"))
    pieces = []
    for index, segment in enumerate(segments):
        here = f"{at}[{index}]"
        if not isinstance(segment, dict) or not isinstance(segment.get("label"), bool):
            raise RowFaultError(Fault(here, "is not an object with text and label (true or false)"))
        text = checked_text(segment.get("text"), f"{here}.text", findings)
        if text:
            pieces.append((SEGMENT if segment["label"] else SEGMENT_READ, text))
    if not any(role == SEGMENT for role, _ in pieces):
        findings.empty_answers += 1
        raise RowFaultError(Fault(at, "holds no text with label true: nothing is learnt"))
    return Example(tuple(pieces))


@dataclass(frozen=True)
class Wording:
    """Axolotl's own formats (`type: {format: ...}`, `prompt_strategies/user_defined.py`).

    Attributes:
        with_input, without_input: text of the question; {instruction} and {input} are replaced.
        system: text of the system prompt; {system} is replaced.
        system_prompt: used if the row has no system prompt of its own.
    """

    with_input: str
    without_input: str
    system: str = "{system}"
    system_prompt: str = ""

    def parse(
        self, row: dict[str, Any], columns: Columns, place: str, findings: Findings
    ) -> Example:
        """The row's question as text that is read, and its answer as text that is learnt.

        Raises:
            RowFaultError: the question or the answer is empty or no text.
        """

        def text_of(name: str) -> str:
            return checked_text(lookup(row, name), f"{place}.{name}", findings)

        question, more = text_of(columns.prompt), text_of(columns.query)
        answer = text_of(columns.response)
        if not question.strip() and not more.strip():
            raise RowFaultError(Fault(f"{place}.{columns.prompt}", "is empty"))
        if not answer.strip():
            findings.empty_answers += 1
            raise RowFaultError(Fault(f"{place}.{columns.response}", "is empty"))
        form = self.with_input if more else self.without_input
        prompt = form.replace("{instruction}", question).replace("{input}", more)
        system = text_of(columns.system) or self.system_prompt
        if system:
            prompt = self.system.replace("{system}", system) + prompt
        return Example(((TEXT_READ, prompt), (TEXT, answer)))
