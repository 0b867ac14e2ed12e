"""Seconds of an optimizer step, from a small model of what the host and the card do.

The host launches kernels and the card runs them, at the same time: a micro-batch takes what the
slower of the two takes. The constants are fitted to steps measured on an H200.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from vram_search.estimate.calibration import card_words
from vram_search.estimate.memory.peaks import fuses_loss
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from vram_search.spec.card import Card

CHARACTERS_PER_TOKEN = 3.5
"""Characters of a token in English text, used until tokens are counted. A lower number makes the
forecast longer."""
DEFAULT_TFLOPS = 50.0
DEFAULT_GB_PER_S = 450.0
"""Speed of a card with no figures in its file: a medium desktop card (RTX 5060 Ti: 47 and 448)."""
BANDWIDTH_SHARE = 0.8
"""Share of a card's bandwidth that large elementwise kernels reach."""
NF4_BYTES = 4.5
"""Moved per weight and pass: half a byte read, 16 bits written and read by the product."""
LOGIT_BYTES = 40
"""Moved per logit: written in 16 bits, widened, log-softmax and its backward pass in fp32
(transformers `loss/loss_utils.py`, `ForCausalLMLoss`)."""
FUSED_LOGIT_BYTES = 8
"""The same where liger overwrites the logits with their gradient (liger_kernel
`ops/fused_linear_cross_entropy.py`)."""


@dataclass(frozen=True)
class Coefficients:
    """Fitted coefficients; seconds of the host unless said otherwise."""

    layer_launch: float
    """Per layer and pass over it."""
    lora_launch: float
    """Per LoRA module and pass over it."""
    micro_batch: float
    tensor: float
    """Per tensor of the adapter and optimizer step: norm, clipping, update."""
    eight_bit_tensor: float
    """More for an 8-bit optimizer, which waits for the card after each tensor, and for Adafactor,
    which updates one tensor after another."""
    peak_share: float
    """Share of the card's peak that matrix products reach."""
    element_bytes: float
    """Moved per element that enters or leaves a linear layer, per pass; LoRA moves it again."""


H200_FIT = Coefficients(
    layer_launch=0.00264,
    lora_launch=0.000427,
    micro_batch=0.00217,
    tensor=1.19e-5,
    eight_bit_tensor=2.69e-5,
    peak_share=0.631,
    element_bytes=6.13,
)
"""`python -m bench.step_time.fit`: 84 configurations of three models on one H200, torch 2.11
(bench/step_time/step_times.jsonl)."""


@dataclass(frozen=True)
class Speed:
    """A card's data sheet."""

    flops_per_second: float
    """Dense products of 16-bit matrices, accumulated in fp32."""
    bytes_per_second: float

    @classmethod
    def of(cls, card: Card) -> Speed:
        """By the card's file; a middling card's figures where it has none."""
        tflops = card.bf16_tflops or DEFAULT_TFLOPS
        return cls(1e12 * tflops, 1e9 * (card.bandwidth_gb_per_s or DEFAULT_GB_PER_S))


DORA_LAUNCHES = 4
"""Launches of a DoRA module over those of a LoRA module: the weight is dequantised, its product and
norms are computed. Counted in peft's `tuners/lora/dora.py`, not measured."""
DORA_IDENTITY_BYTES, DORA_WEIGHT_BYTES = 8, 20
"""Moved per element of the identity matrix (fp32, then 16 bits), and per weight: the dequantised
weight, the adapter's product, their sum and its norms."""

TrialKind = tuple[bool, bool]
"""Settings of a trial that decide its correction: gradient_checkpointing, fused cross entropy."""


@dataclass(frozen=True)
class StepTimeModel:
    """How fast a device trains: its data sheet, and by how much its own trials took longer."""

    speed: Speed
    factor: float = 1.0
    """Measured / predicted seconds of all its trials."""
    kind_factors: Mapping[TrialKind, float] = field(default_factory=dict)
    """And by how much those of a kind differ from that."""

    def factor_of(self, workload: Workload) -> float:
        """By which the model's seconds are multiplied."""
        return self.factor * self.kind_factors.get(kind_of(workload), 1.0)


def kind_of(workload: Workload) -> TrialKind:
    return workload.gradient_checkpointing, workload.fused_linear_cross_entropy


def speed_here(device: str, card: Card) -> Speed:
    """Returns the speed of the device that trains, or of the study's card if the device is unknown.

    Args:
        device: as torch or NVML names it.
    """
    if card_words(device) == card_words(card.label):
        return Speed.of(card)
    shipped_speed = _shipped_speed(card_words(device))
    return Speed.of(card) if shipped_speed is None else shipped_speed


@lru_cache(maxsize=16)
def _shipped_speed(words: tuple[str, ...]) -> Speed | None:
    from vram_search.spec.card import Card, card_names, load_card

    slug = next((slug for slug in card_names() if card_words(slug) == words), None)
    return None if slug is None else Speed.of(Card.model_validate(load_card(slug)))


def step_seconds(
    workload: Workload,
    step_time: StepTimeModel,
    tokens_per_row: float | None = None,
    fit: Coefficients = H200_FIT,
) -> float:
    """Predicted seconds of one optimizer step.

    Args:
        tokens_per_row: with padding (`padded_tokens`); None: every row reaches the cutoff.
    """
    tokens = tokens_per_row or workload.cutoff_len
    host = _launch_seconds(workload, fit)
    card = _card_seconds(workload, step_time.speed, tokens, fit)
    micro_batches = workload.gradient_accumulation_steps * max(host, card)
    return step_time.factor_of(workload) * (micro_batches + _optimizer_seconds(workload, fit))


def card_share(workload: Workload, speed: Speed, fit: Coefficients = H200_FIT) -> float:
    """Predicted share of a step in which the card works, 0 to 1, for rows that reach the cutoff."""
    card = _card_seconds(workload, speed, workload.cutoff_len, fit)
    micro_batch = max(_launch_seconds(workload, fit), card)
    micro_batch += _optimizer_seconds(workload, fit) / workload.gradient_accumulation_steps
    return card / micro_batch


def padded_tokens(
    row_tokens: Sequence[int], cutoff_len: int, batch_size: int, micro_batch: int
) -> float:
    """Expected tokens that a row takes in a micro-batch, padding included.

    The rows of an optimizer step are put into micro-batches by length, so each is padded to the
    longest of rows that follow it: order statistics of `batch_size` rows, at the quantiles
    k / (batch_size + 1).

    Args:
        row_tokens: lengths of all rows, uncut, the longest first.
    """
    longest = [
        min(row_tokens[int(len(row_tokens) * (first + 1) / (batch_size + 1))], cutoff_len)
        for first in range(0, batch_size, micro_batch)
    ]
    return sum(longest) / len(longest)


def model_flops(workload: Workload, tokens_per_row: float) -> float:
    """Floating-point operations that a micro-batch needs, nothing recomputed: forward, and backward
    to the inputs of frozen weights and to both of the adapter's."""
    return _flops(workload, tokens_per_row, forwards=1)


def _launch_seconds(workload: Workload, fit: Coefficients) -> float:
    passes = workload.shape.num_hidden_layers * _passes(workload)
    modules = workload.lora_layers / workload.shape.num_hidden_layers
    modules *= DORA_LAUNCHES if workload.use_dora else 1
    return passes * (fit.layer_launch + modules * fit.lora_launch) + fit.micro_batch


def _card_seconds(
    workload: Workload, speed: Speed, tokens_per_row: float, fit: Coefficients
) -> float:
    """Seconds of one micro-batch: products at their share of the peak, everything else by its
    memory traffic."""
    shape, passes = workload.shape, _passes(workload)
    tokens = workload.per_device_train_batch_size * tokens_per_row
    elements = sum(
        (linear.in_features + linear.out_features) * (1 + (linear.name in workload.lora_modules))
        for linear in shape.linears
    )
    logit_bytes = FUSED_LOGIT_BYTES if fuses_loss(workload) else LOGIT_BYTES
    moved = (
        passes * NF4_BYTES * shape.linear_parameters
        + passes * fit.element_bytes * elements * shape.num_hidden_layers * tokens
        + logit_bytes * shape.vocab_size * tokens
    )
    flops = _flops(workload, tokens_per_row, forwards=passes - 1)
    if workload.use_dora:
        squares = sum(g.count * g.in_features**2 for g in workload.lora_groups)
        weights = sum(g.count * g.parameters for g in workload.lora_groups)
        moved += (passes - 1) * (DORA_IDENTITY_BYTES * squares + DORA_WEIGHT_BYTES * weights)
    return flops / (fit.peak_share * speed.flops_per_second) + moved / (
        BANDWIDTH_SHARE * speed.bytes_per_second
    )


def _flops(workload: Workload, tokens_per_row: float, *, forwards: int) -> float:
    """Operations of one micro-batch with `forwards` forward passes and one backward pass; the head
    and the loss are never recomputed. Attention is causal: half of each row's square, and its
    backward pass takes 2.5 times the forward one (FlashAttention-2, arXiv 2307.08691, 4.1)."""
    shape = workload.shape
    tokens = workload.per_device_train_batch_size * tokens_per_row
    linears = shape.linear_parameters * (forwards + 1)
    adapter = workload.trainable_parameters * (forwards + 2)
    head = shape.vocab_size * shape.hidden_size * 2
    attention = shape.num_hidden_layers * shape.q_size * tokens_per_row * (forwards + 2.5)
    return 2 * tokens * (linears + adapter + head + attention)


def _optimizer_seconds(workload: Workload, fit: Coefficients) -> float:
    tensors = 2 * workload.lora_layers
    optimizer = OPTIMIZERS[workload.optimizer]
    one_by_one = optimizer.eight_bit or optimizer.factored
    return tensors * (fit.tensor + one_by_one * fit.eight_bit_tensor)


def _passes(workload: Workload) -> int:
    """Over the layers: forward, backward, and forward again where activations are recomputed."""
    return 3 if workload.gradient_checkpointing else 2
