"""Encodes rows by chat template with the loss on the answers, cut as LLaMA-Factory cuts."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vram_search.data import Example
from vram_search.data.chat import ChatTurns
from vram_search.data.chat_abilities import ChatTemplateError
from vram_search.data.example import LEARNT_ROLES, SEGMENT, SEGMENT_READ
from vram_search.data.findings import rows_word
from vram_search.data.packing import pack
from vram_search.errors import InputError
from vram_search.spec.dataset import PUBLISHED_DATE
from vram_search.spec.point import Hyperparameters
from vram_search.train.tokenizer import chat_renderer, special_tokens

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""The label of tokens without loss (torch `cross_entropy`, ignore_index)."""


@dataclass(frozen=True)
class EncodedExample:
    """The turns of one row as token ids: (source without loss, target with loss)."""

    turns: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    @property
    def length(self) -> int:
        """Number of all tokens, uncut."""
        return sum(len(source) + len(target) for source, target in self.turns)


@dataclass(frozen=True)
class TokenRow:
    """One cut row, or several that were joined, ready for a batch.

    Attributes:
        labels: IGNORED for tokens without loss.
        position_ids: of joined rows: they start at 0 in each row. None for a single row.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    position_ids: tuple[int, ...] | None = None

    @property
    def answer_tokens(self) -> int:
        """Number of tokens with a loss; the first token of a row is never predicted."""
        return sum(label != IGNORED for label in self.labels[1:])


class Encoder:
    """Encodes rows as token ids with a tokenizer and its chat template.

    Args:
        date: date for templates that put today's date into the prompt.
    """

    def __init__(self, tokenizer: Any, date: str = PUBLISHED_DATE) -> None:
        self.tokenizer = tokenizer
        self.turns = ChatTurns(chat_renderer(tokenizer, date), special_tokens(tokenizer))

    def encode(self, example: Example) -> EncodedExample:
        """Encodes one row.

        Source and target are tokenised separately, as in LLaMA-Factory's
        `Template.encode_multiturn`, so that no token spans the border of the loss. A plain text and
        its end token are learnt completely, as TRL's and Axolotl's trainers do.

        Raises:
            InputError: no chat template exists, it refuses the row, or it hides the answers.
        """
        if example.is_text:
            return EncodedExample(tuple(self._text_turns(example)))
        if self.tokenizer.chat_template is None:
            raise InputError(
                f"the tokenizer {self.tokenizer.name_or_path} has no chat template",
                "name one: --set dataset.template=chatml (a base model), or an instruction-tuned "
                "model's tokenizer under model.tokenizer",
            )
        try:
            turns = self.turns.split(example)
        except ChatTemplateError as error:
            raise InputError(
                f"{row_words(example)}: the chat template refuses it: {error}",
                "correct or leave out rows of this kind, or name another dataset.template",
            ) from None
        return EncodedExample(
            tuple((self._ids(source), self._ids(target)) for source, target in turns)
        )

    def encode_all(self, examples: Iterable[Example]) -> list[EncodedExample]:
        """Encodes rows in their order."""
        return [self.encode(example) for example in examples]

    @property
    def notes(self) -> list[str]:
        """Returns sentences about the rows encoded so far."""
        return [f"{count} {rows_word(count)} {what}" for what, count in self.turns.notes.items()]

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text_turns(self, example: Example) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Pieces of text, each tokenised apart. Segments bring their own begin and end tokens."""
        end = self.tokenizer.eos_token_id
        is_segmented = example.messages[0][0] in (SEGMENT, SEGMENT_READ)
        turns: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        read: tuple[int, ...] = ()
        for number, (role, text) in enumerate(example.messages):
            ids = self._ids(text)
            if number == 0 and not is_segmented:
                ids = tuple(self.tokenizer(text)["input_ids"])
            if role not in LEARNT_ROLES:
                read += ids[:-1] if ids[-1:] == (end,) and not is_segmented else ids
                continue
            turns.append((read, ids))
            read = ()
        if not is_segmented and end is not None and turns[-1][1][-1:] != (end,):
            turns[-1] = (turns[-1][0], (*turns[-1][1], end))
        return turns


def encode(example: Example, tokenizer: Any) -> EncodedExample:
    """Encodes one row as `Encoder.encode` does."""
    return Encoder(tokenizer).encode(example)


def row_words(example: Example) -> str:
    """Describes a row for a message by its place in its file and its first words."""
    first = next((content for role, content in example.messages if role != "system"), "")
    begins = " ".join(first.split())[:40]
    return f"{example.place or 'a row'} (it begins {begins!r})"


def cut(example: EncodedExample, cutoff_len: int) -> TokenRow:
    """Cuts a row to at most `cutoff_len` tokens.

    Source and target are shortened in proportion, turn by turn (LLaMA-Factory
    `data/processor/processor_utils.py`, `infer_seqlen`).
    """
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


def joined(rows: Sequence[TokenRow]) -> TokenRow:
    """Joins rows to one sequence in which each row sees itself alone.

    transformers reads the borders of the rows from the positions (`masking_utils.py`,
    `find_packed_sequence_indices`). The first token of a row is not predicted from the row before.
    """
    return TokenRow(
        tuple(token for row in rows for token in row.input_ids),
        tuple(label for row in rows for label in (IGNORED, *row.labels[1:])),
        tuple(place for row in rows for place in range(len(row.input_ids))),
    )


def training_rows(
    encoded: Sequence[EncodedExample], hyperparameters: Hyperparameters
) -> list[TokenRow]:
    """Returns the rows as a trial trains them: cut, and joined if it packs."""
    cutoff_len = hyperparameters.cutoff_len
    rows = [cut(row, cutoff_len) for row in encoded]
    if not hyperparameters.packing:
        return rows
    lengths = [len(row.input_ids) for row in rows]
    return [joined([rows[place] for place in places]) for places in pack(lengths, cutoff_len)]


def shares(source_len: int, target_len: int, cutoff_len: int) -> tuple[int, int]:
    """Returns the numbers of tokens of source and target that stay."""
    if target_len * 2 < cutoff_len:  # a short target: cut the source
        most = cutoff_len
    elif source_len * 2 < cutoff_len:  # a short source: cut the target
        most = cutoff_len - source_len
    else:
        most = int(cutoff_len * (target_len / (source_len + target_len)))
    kept_target = min(most, target_len)
    return min(max(cutoff_len - kept_target, 0), source_len), kept_target


def answer_bytes(sequence: TokenRow, tokenizer: Any) -> int:
    """Counts the UTF-8 bytes of the answer tokens with a loss, without end-of-turn tokens."""
    answer = [label for label in sequence.labels[1:] if label != IGNORED]
    return len(tokenizer.decode(answer, skip_special_tokens=True).encode())


def learnt_bytes(example: Example) -> int:
    """Counts the UTF-8 bytes of the texts that a row teaches; the same for every tokenizer."""
    return sum(len(text.encode()) for role, text in example.messages if role in LEARNT_ROLES)


def collate(rows: Sequence[TokenRow], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Builds a batch padded on the right to its longest row: int64 tensors of (rows, tokens).

    A batch of joined rows has positions in place of the attention mask. Each padding token has the
    position 0, so that it sees itself alone.
    """
    import torch  # the process that only counts tokens starts without it

    longest = max(len(row.input_ids) for row in rows)

    def padded(sequences: Iterable[tuple[int, ...]], filler: int) -> torch.Tensor:
        # torch reads an array's memory; from lists it takes eight times as long.
        values = array("q")
        for sequence in sequences:
            values.extend(array("q", sequence))
            values.extend(array("q", [filler]) * (longest - len(sequence)))
        return torch.frombuffer(values, dtype=torch.int64).view(len(rows), longest)

    ids = padded((row.input_ids for row in rows), pad_token_id)
    labels = padded((row.labels for row in rows), IGNORED)
    positions = [row.position_ids for row in rows if row.position_ids is not None]
    if positions:
        return {"input_ids": ids, "position_ids": padded(positions, 0), "labels": labels}
    mask = padded(((1,) * len(row.input_ids) for row in rows), 0)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
