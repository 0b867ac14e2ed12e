"""Rows become tokens: loss on the answers alone, cut as LLaMA-Factory cuts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vram_search.data import Example
from vram_search.train.examples import (
    IGNORED,
    EncodedExample,
    TokenRow,
    answer_bytes,
    collate,
    cut,
    encode,
    shares,
)
from vram_search.train.tokenizer import byte_tokenizer

QUESTION = Example((("user", "Why?"), ("assistant", "Because.")))


def test_loss_is_on_the_answer_and_its_end_of_turn_alone() -> None:
    tokenizer = byte_tokenizer()
    row = cut(encode(QUESTION, tokenizer), 500)
    learnt = tokenizer.decode([label for label in row.labels if label != IGNORED])
    assert learnt == "Because.<|im_end|>\n"
    assert tokenizer.decode(row.input_ids) == (
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause.<|im_end|>\n"
    )


def test_every_answer_of_a_conversation_is_learnt() -> None:
    tokenizer = byte_tokenizer()
    talk = Example((("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two")))
    row = cut(encode(talk, tokenizer), 500)
    learnt = tokenizer.decode([label for label in row.labels if label != IGNORED])
    assert learnt == "one<|im_end|>\ntwo<|im_end|>\n"


def test_bits_per_byte_count_the_answer_without_special_tokens() -> None:
    tokenizer = byte_tokenizer()
    row = cut(encode(QUESTION, tokenizer), 500)
    assert answer_bytes(row, tokenizer) == len("Because.\n")


# LLaMA-Factory 0.9.5's infer_seqlen, worked out by hand from its three cases.
@pytest.mark.parametrize(
    ("source", "target", "cutoff", "kept"),
    [
        (100, 10, 50, (40, 10)),  # a short target: the source is cut
        (10, 100, 50, (10, 40)),  # a short source: the target is cut
        (100, 100, 50, (25, 25)),  # both are long: in proportion
        (30, 15, 50, (30, 15)),  # it fits
    ],
)
def test_shares_follow_llama_factory(
    source: int, target: int, cutoff: int, kept: tuple[int, int]
) -> None:
    assert shares(source, target, cutoff) == kept


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=4),
    st.integers(16, 200),
)
def test_cut_never_exceeds_the_cutoff_and_keeps_what_fits(
    lengths: list[tuple[int, int]], cutoff: int
) -> None:
    turns = tuple((tuple([1] * source), tuple([2] * target)) for source, target in lengths)
    example = EncodedExample(turns)
    row = cut(example, cutoff)
    assert len(row.input_ids) == len(row.labels) <= cutoff
    if example.length <= cutoff:
        assert len(row.input_ids) == example.length


def test_batch_is_padded_on_the_right_without_attention_or_loss() -> None:
    rows = [TokenRow((150_000, 8, 9), (IGNORED, 8, 9)), TokenRow((5,), (5,))]
    batch = collate(rows, pad_token_id=3)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[150_000, 8, 9], [5, 3, 3]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[IGNORED, 8, 9], [5, IGNORED, IGNORED]],
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_only_the_learnt_pieces_of_a_text_have_a_loss() -> None:
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token_id

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text)["input_ids"])

    own = Example((("text_read", "Q: "), ("text", "yes")))
    assert encode(own, tokenizer).turns == ((ids("Q: "), (*ids("yes"), end)),)
    pieces = (("segment_read", "a"), ("segment", "b"), ("segment_read", "c"), ("segment", "d"))
    turns = encode(Example(pieces), tokenizer).turns
    assert turns == ((ids("a"), ids("b")), (ids("c"), ids("d")))
