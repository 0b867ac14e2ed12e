"""Answers `data`: what would be trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from vram_search.answers.base import AnswerPart
from vram_search.data import Example, Rows, load_rows
from vram_search.data.example import LEARNT_ROLES, as_json
from vram_search.data.rows_report import Piece, RowsCounted, RowsQuestion
from vram_search.spec.dataset import DatasetSpec
from vram_search.worker.count_rows import count_rows

PERCENTILES = (0, 25, 50, 75, 90, 95, 99, 100)
BINS = 8
FEW_CUT = 0.01
"""The suggested cutoff_len cuts at most this share of the rows."""
STEP = 256
"""A suggested cutoff_len is a multiple of it, or a small power of two."""


class Lengths(AnswerPart):
    """Lengths of the training rows."""

    unit: str = Field(description="tokens, or characters if no tokenizer is known.")
    percentiles: dict[int, int] = Field(description="Percentile -> length.")
    histogram: list[tuple[int, int, int]] = Field(description="From, to, rows.")


class CutAnswer(AnswerPart):
    """The effect of one cutoff_len on the rows."""

    cutoff_len: int
    rows_cut: int = Field(description="Training rows that lose their end.")
    tokens_cut: int = Field(description="Tokens that are lost.")


class DataAnswer(AnswerPart):
    """The rows that would be trained on, and those for evaluation."""

    name: str = Field(description="Files or data sets.")
    forms: dict[str, int] = Field(description="Rows by the fields that hold their texts.")
    train_rows: int
    eval_rows: int
    bad_rows: int = Field(description="Rows that cannot be used, which are left out here.")
    empty_answers: int = Field(description="Of the bad rows, those whose answer is empty.")
    data_hash: str
    roles: dict[str, int] = Field(description="Turns by role.")
    duplicates: int = Field(description="Training rows that repeat an earlier one.")
    overlap: int = Field(description="Evaluation rows that are training rows too.")
    lengths: Lengths
    answer_tokens: int | None = Field(description="Tokens that are learnt; null: no tokenizer.")
    cutoffs: list[CutAnswer]
    suggested_cutoff_len: int | None = Field(description="Cuts 1 % of the rows at most.")
    notes: list[str]
    shown: list[list[Piece]] = Field(description="The first training rows as text.")


def data_answer(
    dataset: DatasetSpec,
    seed: int,
    tokenizer: str | None,
    cutoffs: Sequence[int] = (),
    shown: int = 3,
    on_progress: Callable[[int], None] = lambda rows: None,
    *,
    is_optional: bool = False,
) -> DataAnswer:
    """Reads the rows, and counts their tokens where a tokenizer is named.

    Args:
        cutoffs: values of cutoff_len in the study; default: powers of two.
        is_optional: characters are counted, with a note, if the tokenizer cannot be loaded.

    Raises:
        InputError: the rows cannot be read, or the tokenizer's chat template refuses one.
    """
    lenient = dataset.model_copy(update={"on_bad_row": dataset.on_bad_row or "skip"})
    rows = load_rows(lenient, seed)
    counted = None
    notes = list(rows.notes)
    if tokenizer is not None:
        question = RowsQuestion(
            dataset=lenient, seed=seed, tokenizer=tokenizer, shown=shown, is_optional=is_optional
        )
        counted = count_rows(question, on_progress)
        if not counted.has_tokenizer:
            counted = None
            notes.append(f"no tokenizer could be loaded from {tokenizer}: characters are counted")
    lengths = counted.train_tokens if counted else tuple(map(_characters, rows.train))
    cut = _cuts(lengths, cutoffs) if counted else []
    return DataAnswer(
        name=dataset.label,
        forms=rows.forms,
        train_rows=len(rows.train),
        eval_rows=len(rows.eval),
        bad_rows=rows.bad,
        empty_answers=rows.empty,
        data_hash=rows.data_hash,
        roles=_roles(rows),
        duplicates=len(rows.train) - len({example.hashed() for example in rows.train}),
        overlap=_overlap(rows),
        lengths=Lengths(
            unit="tokens" if counted else "characters",
            percentiles={share: percentile(lengths, share) for share in PERCENTILES},
            histogram=histogram(lengths),
        ),
        answer_tokens=sum(counted.train_answer_tokens) if counted else None,
        cutoffs=cut,
        suggested_cutoff_len=suggested_cutoff(lengths) if counted else None,
        notes=[*notes, *(counted.notes if counted else ())],
        shown=_shown(rows, counted, shown),
    )


def _characters(example: Example) -> int:
    return sum(len(content) for _, content in example.messages)


def _roles(rows: Rows) -> dict[str, int]:
    examples = (*rows.train, *rows.eval)
    return dict(Counter(role for example in examples for role, _ in example.messages))


def _overlap(rows: Rows) -> int:
    trained = {example.hashed() for example in rows.train}
    return sum(example.hashed() in trained for example in rows.eval)


def _shown(rows: Rows, counted: RowsCounted | None, count: int) -> list[list[Piece]]:
    if counted is not None:
        return [list(row) for row in counted.shown]
    return [
        [
            Piece(
                text=_turn_text(turn),
                is_learnt=turn["role"] in LEARNT_ROLES and number not in example.untrained,
            )
            for number, turn in enumerate(example.turns)
        ]
        for example in rows.train[:count]
    ]


def _turn_text(turn: dict[str, Any]) -> str:
    """A turn as text where no chat template is known: role, thought, content and calls."""
    calls = turn.get("tool_calls")
    parts = [turn.get("reasoning_content"), turn["content"], as_json(calls) if calls else ""]
    return f"{turn['role']}: {' '.join(part for part in parts if part)}\n"


def percentile(lengths: Sequence[int], share: int) -> int:
    """The shortest length that `share` percent of the rows do not exceed."""
    in_order = sorted(lengths)
    return in_order[max(0, -(-share * len(in_order) // 100) - 1)]


def histogram(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(from, to, rows) in pieces of one width, empty ones too."""
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // BINS))
    counts = Counter((length - low) // width for length in lengths)
    last = (high - low) // width
    return [
        (low + width * i, min(high, low + width * (i + 1) - 1), counts[i]) for i in range(last + 1)
    ]


def suggested_cutoff(lengths: Sequence[int]) -> int:
    """The smallest usual cutoff_len that cuts no more than FEW_CUT of the rows."""
    needed = percentile(lengths, 100 - round(100 * FEW_CUT))
    if needed <= STEP:
        return next(size for size in (16, 32, 64, 128, STEP) if size >= needed)
    return -(-needed // STEP) * STEP


def _cuts(lengths: Sequence[int], cutoffs: Sequence[int]) -> list[CutAnswer]:
    longest = max(lengths)
    sizes = list(cutoffs)
    if not sizes:
        sizes = [size for size in (2**power for power in range(5, 18)) if size < longest][-4:]
    return [
        CutAnswer(
            cutoff_len=size,
            rows_cut=sum(length > size for length in lengths),
            tokens_cut=sum(max(0, length - size) for length in lengths),
        )
        for size in sorted(sizes)
    ]
