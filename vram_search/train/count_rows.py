"""Encodes a study's rows and counts their tokens: `python -m vram_search.train.count_rows
QUESTION.json ANSWER.json`.

It runs in its own process because the tokenizer's library takes seconds to load. It prints the
number of encoded rows, one number per line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from vram_search.data import Example, load_rows
from vram_search.data.rows_report import Piece, RowsCounted, RowsQuestion
from vram_search.errors import InputError, VramSearchError
from vram_search.protocol import LoadFailed
from vram_search.train.channel import silence_libraries

ROWS_A_LINE = 200
"""Number of rows between two progress lines."""


def count_rows(question: RowsQuestion, progress: TextIO) -> RowsCounted:
    """Encodes every row and returns their lengths.

    Raises:
        InputError: the tokenizer cannot be loaded, or its chat template refuses a row.
    """
    from vram_search.model_code.light_imports import uncollected_imports

    with uncollected_imports():
        from vram_search.train.examples import EncodedExample, Encoder
        from vram_search.train.tokenizer import load_tokenizer

    dataset = question.dataset
    rows = load_rows(dataset, question.seed)
    try:
        tokenizer = load_tokenizer(question.tokenizer, dataset.template, is_local=question.is_local)
    except InputError:
        if question.is_optional or (question.is_local and dataset.template is None):
            return RowsCounted(has_tokenizer=False)
        raise
    encoder = Encoder(tokenizer, dataset.date)

    def encoded(examples: Sequence[Example], done: int) -> Iterator[EncodedExample]:
        for number, example in enumerate(examples, start=done + 1):
            if number % ROWS_A_LINE == 0:
                print(number, file=progress, flush=True)
            yield encoder.encode(example)

    train = list(encoded(rows.train, 0))
    evaluation = encoded(rows.eval, len(train))

    def pieces(row: EncodedExample) -> Iterator[Piece]:
        for source, target in row.turns:
            yield Piece(text=tokenizer.decode(source), is_learnt=False)
            yield Piece(text=tokenizer.decode(target), is_learnt=True)

    return RowsCounted(
        train_tokens=tuple(row.length for row in train),
        train_answer_tokens=tuple(sum(len(answer) for _, answer in row.turns) for row in train),
        eval_tokens=tuple(row.length for row in evaluation),
        notes=tuple(encoder.notes),
        shown=tuple(tuple(pieces(row)) for row in train[: question.shown]),
    )


def main(question: Path, target: Path) -> None:
    """Answers the question; an error that the user can fix is written as a LoadFailed."""
    progress = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of libraries breaks no line
    silence_libraries()
    # transformers' tokenizers work without torch, and are loaded in half the time.
    sys.modules["torch"] = None  # type: ignore[assignment]
    found: RowsCounted | LoadFailed
    try:
        asked = RowsQuestion.model_validate_json(question.read_text(encoding="utf-8"))
        found = count_rows(asked, progress)
    except VramSearchError as error:
        found = LoadFailed(message=error.message, remedy=error.remedy)
    target.write_text(found.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
