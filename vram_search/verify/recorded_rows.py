"""Encodes a trial's rows with our own code and evaluates its kept adapter on them:
`python -m vram_search.verify.recorded_rows QUESTION.json ANSWER.json`.

It runs in its own process because it loads torch; the card's memory is free when it ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vram_search.data import load_rows
from vram_search.errors import VramSearchError
from vram_search.protocol import LoadFailed, LoadJob
from vram_search.spec.base import Spec
from vram_search.train.channel import silence_libraries
from vram_search.verify.llamafactory_rows import describe

RowInShort = tuple[str, int, int]
"""A row's summary as `llamafactory_rows.describe` returns it."""


class Question(Spec):
    """The trial to encode and evaluate.

    Attributes:
        adapter_path: folder of the best checkpoint's adapter.
    """

    load: LoadJob
    cutoff_len: int
    per_device_eval_batch_size: int
    adapter_path: str


class RecordedRows(Spec):
    """The rows at the trial's own cutoff_len and the adapter's losses on them.

    Attributes:
        eval_at_study_cutoff: the evaluation rows that the recorded losses are for.
        eval_loss_sums: summed nats per evaluation row of `eval`.
    """

    train: tuple[RowInShort, ...]
    eval: tuple[RowInShort, ...]
    eval_at_study_cutoff: tuple[RowInShort, ...]
    eval_loss_sums: tuple[float, ...]


def answer(question: Question) -> RecordedRows:
    """Encodes the rows and evaluates the adapter on a freshly quantised base model.

    Raises:
        InputError: the model, its tokenizer or the rows cannot be loaded.
    """
    from vram_search.train import model as base_model
    from vram_search.train.adapter_weights import refusing_damage
    from vram_search.train.evaluate import evaluate
    from vram_search.train.examples import Encoder, TokenRow, cut
    from vram_search.train.tokenizer import load_tokenizer

    load, cutoff_len = question.load, question.cutoff_len
    tokenizer = load_tokenizer(load.tokenizer, load.dataset.template)
    encoder = Encoder(tokenizer, load.dataset.date)
    rows = load_rows(load.dataset, load.seed)
    eval_rows = encoder.encode_all(rows.eval)
    cut_eval_rows = [cut(row, cutoff_len) for row in eval_rows]
    base = base_model.load_base(load)
    with refusing_damage(Path(question.adapter_path)):
        base.load_adapter(question.adapter_path)
    losses = evaluate(
        base, cut_eval_rows, question.per_device_eval_batch_size, tokenizer.pad_token_id
    )

    def short(row: TokenRow) -> RowInShort:
        digest, tokens, answer_tokens = describe(row.input_ids, row.labels)
        return digest, tokens, answer_tokens

    return RecordedRows(
        train=tuple(short(cut(row, cutoff_len)) for row in encoder.encode_all(rows.train)),
        eval=tuple(map(short, cut_eval_rows)),
        eval_at_study_cutoff=tuple(short(cut(row, load.eval_cutoff_len)) for row in eval_rows),
        eval_loss_sums=losses.sums,
    )


def main(question: Path, target: Path) -> None:
    """Answers the question; an error that the user can fix is written as a LoadFailed."""
    silence_libraries()
    found: RecordedRows | LoadFailed
    try:
        found = answer(Question.model_validate_json(question.read_text(encoding="utf-8")))
    except VramSearchError as error:
        found = LoadFailed(message=error.message, remedy=error.remedy)
    target.write_text(found.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
