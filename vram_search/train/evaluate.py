"""Computes eval_loss on the same rows and tokens for every trial, with each example's loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from vram_search.spec.plan import EVAL_LOSS_TOKENS
from vram_search.train.device import compute_dtype
from vram_search.train.examples import TokenRow, collate
from vram_search.train.model import evaluation_mode, to_device, with_type_ids


@dataclass(frozen=True)
class Losses:
    """Summed losses in nats and answer tokens, per example."""

    sums: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Returns the mean loss in nats per answer token over all examples."""
        return sum(self.sums) / sum(self.tokens)

    def bits_per_byte(self, answer_bytes: Sequence[int]) -> float:
        """Returns the bits per UTF-8 byte of the answers, comparable between tokenizers."""
        return sum(self.sums) / math.log(2) / max(1, sum(answer_bytes))


def evaluate(
    model: Any,
    rows: Sequence[TokenRow],
    batch_size: int,
    pad_token_id: int,
    on_batch: Callable[[tuple[int, int]], None] = lambda shape: None,
) -> Losses:
    """Returns the losses of `rows` in their order.

    The longest batches run first, so that a lack of memory shows at once. The host waits for the
    device once, at the end.

    Args:
        on_batch: called with each batch's shape before it runs: rows, tokens of the longest.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    here, dtype = next(model.parameters()).device, compute_dtype()
    sums: list[torch.Tensor] = []
    with (
        evaluation_mode(model),
        torch.no_grad(),
        torch.autocast(here.type, dtype=dtype, enabled=dtype != torch.float32),
    ):
        for start in range(0, len(order), batch_size):
            chosen = [rows[i] for i in order[start : start + batch_size]]
            on_batch((len(chosen), len(chosen[0].input_ids)))
            batch = with_type_ids(model, to_device(collate(chosen, pad_token_id), here))
            labels = batch.pop("labels")
            logits = model(**batch).logits
            sums += [_summed_loss(logits[i, :-1], labels[i, 1:]) for i in range(len(chosen))]
            del logits
    in_order = dict(zip(order, torch.stack(sums).tolist(), strict=True))
    return Losses(
        tuple(in_order[i] for i in range(len(rows))), tuple(row.answer_tokens for row in rows)
    )


def _summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sums the nats of one row piece by piece; all of its logits in fp32 would raise the peak.

    Args:
        logits: (tokens, vocabulary).
        labels: (tokens,).
    """
    pieces = zip(logits.split(EVAL_LOSS_TOKENS), labels.split(EVAL_LOSS_TOKENS), strict=True)
    losses = [cross_entropy(part.float(), answers, reduction="sum") for part, answers in pieces]
    return torch.stack(losses).sum()
