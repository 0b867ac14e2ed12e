"""Bytes of a batch of generated answers, and the largest batch within a training's own peak."""

from __future__ import annotations

from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.predict import Estimate
from vram_search.spec.shape import ModelShape

MOST_ROWS = 16
CACHE_GROWTH = 2
"""A longer cache is written beside the old one (transformers `cache_utils.py`, DynamicLayer:
torch.cat), and the blocks of earlier lengths stay with the allocator."""
HIDDEN_COPIES = 8
"""Hidden states of the prompt at once: residual stream, norm, query, key, value, attention."""
MLP_COPIES = 3
"""Gate, up and their product."""
STAYS = (
    *("base_weights", "upcasts", "adapter", "optimizer", "workspaces"),
    *("trained_modules", "trained_weights", "dequantized_experts"),
)
"""Parts of an estimate that are there during a generation too."""


def generation_bytes(shape: ModelShape, rows: int, tokens: int) -> int:
    """Temporary bytes of a batch: key-value cache, the prompt's pass, logits of one token a row.

    Args:
        tokens: of prompt and answer together.
    """
    cache = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * BF16
    widths = HIDDEN_COPIES * shape.hidden_size + MLP_COPIES * shape.intermediate_size
    mask = BF16 * tokens * tokens
    per_row = CACHE_GROWTH * cache * tokens + BF16 * widths * tokens + mask
    return rows * (per_row + shape.vocab_size * (BF16 + 2 * FP32))


def generation_batch(estimate: Estimate, tokens: int) -> int:
    """Returns the most rows, a power of two, whose bytes are within the training's own peak.

    One row always is: its answer is within eval_cutoff_len tokens, and an evaluation of as many
    tokens holds all their logits.
    """
    parts = estimate.allocated_parts
    room = sum(size for name, size in parts.items() if name not in STAYS)
    rows = MOST_ROWS
    while rows > 1 and generation_bytes(estimate.workload.shape, rows, tokens) > room:
        rows //= 2
    return rows
