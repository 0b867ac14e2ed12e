"""The request to the process that tokenises rows, and its answer."""

from __future__ import annotations

from typing import Literal

from vram_search.spec.base import Spec
from vram_search.spec.dataset import DatasetSpec


class RowsQuestion(Spec):
    """Encode a study's rows.

    Attributes:
        tokenizer: folder or hub name; None for the byte tokenizer.
        is_local: download nothing; a tokenizer that is not here is no error then.
        is_optional: a tokenizer that cannot be loaded is no error.
        shown: rows to show as text.
    """

    dataset: DatasetSpec
    seed: int
    tokenizer: str | None
    is_local: bool = False
    is_optional: bool = False
    shown: int = 0


class Piece(Spec):
    """Text of a row that is read, or learnt."""

    text: str
    is_learnt: bool


class RowsCounted(Spec):
    """The rows as the tokenizer and its chat template make them.

    Attributes:
        has_tokenizer: False where it is not here; all else is empty then.
        train_tokens: tokens of each training row before it is cut, in order.
        train_answer_tokens: the tokens among them that are learnt.
        notes: sentences about what the chat template does.
        shown: the first training rows.
    """

    event: Literal["rows"] = "rows"
    has_tokenizer: bool = True
    train_tokens: tuple[int, ...] = ()
    train_answer_tokens: tuple[int, ...] = ()
    eval_tokens: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    shown: tuple[tuple[Piece, ...], ...] = ()
