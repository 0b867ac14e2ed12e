"""Counts the rows' tokens in a process with the tokenizer, which also checks its template."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter

from vram_search.data.rows_report import RowsCounted, RowsQuestion
from vram_search.errors import InputError, VramSearchError
from vram_search.extras import check_training_packages
from vram_search.protocol import LoadFailed

ANSWER: TypeAdapter[RowsCounted | LoadFailed] = TypeAdapter(RowsCounted | LoadFailed)


def count_rows(
    question: RowsQuestion, on_progress: Callable[[int], None] = lambda rows: None
) -> RowsCounted:
    """Returns the lengths of the rows in tokens.

    Args:
        on_progress: called with the number of rows that are encoded so far.

    Raises:
        InputError: the tokenizer cannot be loaded, or its chat template refuses a row.
        VramSearchError: the process failed.
    """
    check_training_packages()
    with tempfile.TemporaryDirectory(prefix="vram-search-rows-") as folder:
        asked, answer = Path(folder, "question.json"), Path(folder, "answer.json")
        asked.write_text(question.model_dump_json(), encoding="utf-8")
        log = Path(folder, "log.txt")
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "vram_search.train.count_rows", str(asked), str(answer)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
            )
            assert process.stdout is not None, "it is a pipe"
            with process:
                for line in process.stdout:
                    on_progress(int(line))
        if process.returncode or not answer.is_file():
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise VramSearchError(
                f"the rows could not be counted: {' '.join(last) or 'no message'}"
            )
        found = ANSWER.validate_json(answer.read_bytes())
    if isinstance(found, LoadFailed):
        raise InputError(found.message, found.remedy)
    return found
