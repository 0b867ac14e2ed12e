"""Chooses the evaluation rows on which models with different tokenizers are compared."""

from __future__ import annotations

from collections.abc import Sequence

from vram_search.data import Example
from vram_search.errors import InputError
from vram_search.protocol import LoadJob
from vram_search.train.examples import Encoder
from vram_search.train.tokenizer import load_tokenizer


def whole_rows(job: LoadJob, rows: Sequence[Example], own: Encoder) -> tuple[Example, ...]:
    """Returns the evaluation rows that the cutoff leaves whole under every tokenizer of the study.

    A row that is cut holds other text under each tokenizer, so it would not be the same row for
    all models. All training processes of a study choose the same rows.

    Raises:
        InputError: no row is left.
    """
    others = [
        Encoder(load_tokenizer(name, job.dataset.template), job.dataset.date)
        for name in job.other_tokenizers
    ]
    kept = tuple(
        row
        for row in rows
        if all(one.encode(row).length <= job.eval_cutoff_len for one in (own, *others))
    )
    if not kept:
        raise InputError(
            f"every evaluation row is longer than {job.eval_cutoff_len} tokens for one of the "
            "study's tokenizers: no row is the same text for all models",
            "raise training.eval_cutoff_len",
        )
    return kept
