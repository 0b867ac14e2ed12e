"""Rows as token ids: the chat template's turns, loss on the answers, cut as LLaMA-Factory cuts."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vram_search.data import Example
from vram_search.errors import InputError

IGNORED = -100
"""Label of tokens without loss (torch `cross_entropy`, ignore_index)."""


@dataclass(frozen=True)
class EncodedExample:
    """Turns of one row: (what is read, what is learnt) as token ids."""

    turns: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    @property
    def length(self) -> int:
        """Tokens in all, uncut."""
        return sum(len(source) + len(target) for source, target in self.turns)


@dataclass(frozen=True)
class TokenRow:
    """One cut row, ready for a batch; `labels` hold IGNORED where there is no loss."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def answer_tokens(self) -> int:
        """Tokens with a loss; the first token of a row is never predicted."""
        return sum(label != IGNORED for label in self.labels[1:])


def encode(example: Example, tokenizer: Any) -> EncodedExample:
    """The row through the tokenizer's chat template.

    Source and target are tokenised apart, as LLaMA-Factory's `Template.encode_multiturn` does, so
    that no token spans the border of the loss.

    Raises:
        InputError: the template rewrites earlier turns, so that no border can be found.
    """
    turns, done = [], ""
    messages = example.turns
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(
            messages[:index], tokenize=False, add_generation_prompt=True
        )
        after = tokenizer.apply_chat_template(messages[: index + 1], tokenize=False)
        if not before.startswith(done) or not after.startswith(before):
            raise InputError(
                "the tokenizer's chat template rewrites earlier turns; the loss on the answer "
                "alone cannot be told apart",
                "use rows of one question and one answer, or another model.tokenizer",
            )
        turns.append((_ids(tokenizer, before[len(done) :]), _ids(tokenizer, after[len(before) :])))
        done = after
    return EncodedExample(tuple(turns))


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def cut(example: EncodedExample, cutoff_len: int) -> TokenRow:
    """At most `cutoff_len` tokens; source and target shortened in proportion, turn by turn
    (LLaMA-Factory `data/processor/processor_utils.py`, `infer_seqlen`)."""
    ids: list[int] = []
    labels: list[int] = []
    for source, target in example.turns:
        room = cutoff_len - len(ids)
        if room <= 0:
            break
        source_len, target_len = shares(len(source), len(target), room)
        ids += source[:source_len] + target[:target_len]
        labels += [IGNORED] * source_len + list(target[:target_len])
    return TokenRow(tuple(ids), tuple(labels))


def shares(source_len: int, target_len: int, cutoff_len: int) -> tuple[int, int]:
    """How many tokens of source and target stay."""
    if target_len * 2 < cutoff_len:  # a short target: cut the source
        most = cutoff_len
    elif source_len * 2 < cutoff_len:  # a short source: cut the target
        most = cutoff_len - source_len
    else:
        most = int(cutoff_len * (target_len / (source_len + target_len)))
    kept_target = min(most, target_len)
    return min(max(cutoff_len - kept_target, 0), source_len), kept_target


def answer_bytes(sequence: TokenRow, tokenizer: Any) -> int:
    """UTF-8 bytes of the answer tokens that have a loss, end-of-turn tokens excluded."""
    answer = [label for label in sequence.labels[1:] if label != IGNORED]
    return len(tokenizer.decode(answer, skip_special_tokens=True).encode())


def collate(rows: Sequence[TokenRow], pad_token_id: int) -> dict[str, torch.Tensor]:
    """A batch, padded on the right to its longest row: int64 tensors of (rows, tokens)."""
    longest = max(len(row.input_ids) for row in rows)

    def padded(sequences: Iterable[tuple[int, ...]], filler: int) -> torch.Tensor:
        # torch reads an array's memory; from lists it takes eight times as long.
        values = array("q")
        for sequence in sequences:
            values.extend(array("q", sequence))
            values.extend(array("q", [filler]) * (longest - len(sequence)))
        return torch.frombuffer(values, dtype=torch.int64).view(len(rows), longest)

    return {
        "input_ids": padded((row.input_ids for row in rows), pad_token_id),
        "attention_mask": padded(((1,) * len(row.input_ids) for row in rows), 0),
        "labels": padded((row.labels for row in rows), IGNORED),
    }
