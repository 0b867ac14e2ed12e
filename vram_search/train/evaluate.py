"""eval_loss: the same rows and tokens for every trial, with each example's own loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from vram_search.train.examples import TokenRow, collate
from vram_search.train.model import compute_dtype, evaluation_mode


@dataclass(frozen=True)
class Losses:
    """Summed losses in nats and answer tokens, per example."""

    sums: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Per answer token over all examples."""
        return sum(self.sums) / sum(self.tokens)

    def bits_per_byte(self, answer_bytes: Sequence[int]) -> float:
        """Bits per UTF-8 byte of the answers: comparable between tokenizers."""
        return sum(self.sums) / math.log(2) / max(1, sum(answer_bytes))


def evaluate(
    model: Any,
    rows: Sequence[TokenRow],
    batch_size: int,
    pad_token_id: int,
    progress: Callable[[], None] = lambda: None,
) -> Losses:
    """Losses of `rows`, in their order; longest batches first: too little memory shows at once."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    sums = [0.0] * len(rows)
    here = next(model.parameters()).device
    with (
        evaluation_mode(model),
        torch.no_grad(),
        torch.autocast(here.type, dtype=compute_dtype()),
    ):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collate([rows[i] for i in chosen], pad_token_id)
            labels = batch.pop("labels").to(here)
            logits = model(**{name: tensor.to(here) for name, tensor in batch.items()}).logits
            for position, index in enumerate(chosen):
                # Row by row: a batch's logits in fp32 at once would double the peak.
                sums[index] = cross_entropy(
                    logits[position, :-1].float(), labels[position, 1:], reduction="sum"
                ).item()
            del logits
            progress()
    return Losses(tuple(sums), tuple(row.answer_tokens for row in rows))
