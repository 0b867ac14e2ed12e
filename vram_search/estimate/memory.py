"""Peak bytes of one QLoRA training, in closed form. No GPU, no torch.

The form is the one measured in docs/experiments.md: at the peak, in the backward pass of the loss,
there are the weights, the adapter, the optimizer's states, one saved hidden state per layer (or all
of a layer's activations without checkpointing), and the logits with their gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

from vram_search.spec.card import Card
from vram_search.spec.hyperparameters import Hyperparameters
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.plan import MemoryPlan
from vram_search.spec.shape import ModelShape
from vram_search.units import KIB, MIB

BF16 = 2
FP32 = 4

NF4_BLOCK = 64
"""Weights that share one absmax (bitsandbytes `Params4bit`, default blocksize)."""
NESTED_BLOCK = 256
"""absmax values that share one fp32 scale with double quantisation
(bitsandbytes `functional.quantize_4bit`)."""
NF4_TABLES_BYTES = 2 * KIB
"""Per layer: code tables and the nested offset, each in a block of its own (512 B granularity)."""

LOGITS_BYTES = 12
"""Per token and vocabulary entry: bf16 logits, their fp32 copy, fp32 log-softmax gradient, and its
bf16 copy (transformers `loss/loss_utils.py`, `ForCausalLMLoss`)."""
EVALUATION_LOGITS_BYTES = 10
"""The same without a gradient: bf16 logits, their fp32 copy, the fp32 log-softmax."""
FUSED_LOGITS_BYTES = 10
"""The same in one chunk of liger's `fused_linear_cross_entropy_forward`."""

WORKSPACE_BYTES = 76 * MIB
"""cuBLAS and cuBLASLt workspaces, rotary tables and dequantised weights; the median of what the
closed form lacks on 40 measured runs (docs/experiments.md)."""

REQUIRED_RATIO = 1.06
REQUIRED_RATIO_EXPANDABLE = 1.03
REQUIRED_RATIO_VARIED = 1.10
"""Smallest limit under which a run completes, against its allocated peak: equal lengths, expandable
segments, and varied lengths without them (findings measured on an H200)."""


@dataclass(frozen=True)
class Estimate:
    """Predicted bytes; `parts` add up to `allocated_bytes`."""

    allocated_bytes: int
    """torch's `max_memory_allocated`."""
    required_bytes: int
    """Smallest allocator limit under which the run completes."""
    process_bytes: int
    """What NVML shows for the process: required + the card's context."""
    parts: dict[str, int]
    trainable_parameters: int

    def as_dict(self) -> dict[str, object]:
        """For the record and for JSON."""
        return {
            "allocated_bytes": self.allocated_bytes,
            "required_bytes": self.required_bytes,
            "process_bytes": self.process_bytes,
            "parts": dict(self.parts),
        }


def estimate_base_bytes(shape: ModelShape) -> int:
    """Bytes of the base model on the card: NF4 with double quantisation, the rest in 16 bits.

    The embedding, the head, the norms and the biases are not quantised (transformers'
    `get_keys_to_not_convert`).
    """
    blocks = shape.linear_parameters / NF4_BLOCK
    quantised = shape.linear_parameters / 2 + blocks + blocks / NESTED_BLOCK * FP32
    tables = shape.num_hidden_layers * len(shape.linears) * NF4_TABLES_BYTES
    kept = shape.embedding_parameters + shape.norm_parameters + shape.bias_parameters
    return round(quantised + tables + kept * BF16)


def estimate(
    shape: ModelShape,
    hyperparameters: Hyperparameters,
    plan: MemoryPlan,
    card: Card,
    *,
    eval_cutoff_len: int | None = None,
    equal_lengths: bool = False,
    upcast: bool = False,
) -> Estimate:
    """Predicted peak of a training with its evaluations.

    Args:
        eval_cutoff_len: tokens of the longest evaluation text; None leaves evaluation out.
        equal_lengths: every text has `cutoff_len` tokens, so the allocator meets one shape only.
        upcast: peft's `prepare_model_for_kbit_training` was called, which turns what is not
            quantised into fp32. Our training does not call it, nor does LLaMA-Factory; others do.

    Raises:
        ValueError: the model lacks a LoRA module that is named.
    """
    hp = hyperparameters
    tokens = plan.per_device_train_batch_size * hp.cutoff_len
    trainable = shape.lora_parameters(hp.lora_target, hp.lora_rank)
    optimizer = OPTIMIZERS[hp.optim]
    states = 0 if optimizer.paged else round(trainable * optimizer.state_bytes_per_parameter)
    # Gradients of earlier micro-batches are still there while the next one peaks.
    gradients = trainable * FP32 if plan.gradient_accumulation_steps > 1 else 0
    training = {
        "saved_activations": _saved_activations(shape, hp, plan, tokens, upcast=upcast),
        "logits": _logits(shape, tokens, fused=plan.enable_liger_kernel),
        "gradients": gradients,
    }
    if eval_cutoff_len is not None:
        eval_tokens = plan.per_device_eval_batch_size * eval_cutoff_len
        evaluation_logits = EVALUATION_LOGITS_BYTES * shape.vocab_size * eval_tokens
        if evaluation_logits > sum(training.values()):
            training = {"evaluation_logits": evaluation_logits}
    parts = {
        "base_weights": estimate_base_bytes(shape),
        **({"upcast": _upcast(shape)} if upcast else {}),
        "adapter": trainable * FP32,
        "optimizer": states,
        **training,
        "workspaces": WORKSPACE_BYTES,
    }
    allocated = sum(parts.values())
    ratio = REQUIRED_RATIO_VARIED
    if plan.expandable_segments:
        ratio = REQUIRED_RATIO_EXPANDABLE
    elif equal_lengths:
        ratio = REQUIRED_RATIO
    required = round(allocated * ratio)
    return Estimate(allocated, required, required + card.context_bytes, parts, trainable)


def _upcast(shape: ModelShape) -> int:
    """fp32 in place of bf16, and the transposed copy of the head that its matrix product makes."""
    kept = shape.embedding_parameters + shape.norm_parameters + shape.bias_parameters
    return (FP32 - BF16) * kept + BF16 * shape.vocab_size * shape.hidden_size


def _saved_activations(
    shape: ModelShape, hp: Hyperparameters, plan: MemoryPlan, tokens: int, *, upcast: bool
) -> int:
    """With checkpointing one hidden state per layer, in bf16 (fp32 where upcast).

    Without: per token and layer 12 H + 8 I + 4 q + 4 kv + 4 heads bytes (18 H + 14 I upcast), and
    what LoRA's B saves of A's output; traced.
    """
    hidden = shape.hidden_size
    if plan.gradient_checkpointing:
        element = FP32 if upcast else BF16
        return (shape.num_hidden_layers + 1) * hidden * element * tokens
    lora = 2 * len(shape.target_linears(hp.lora_target)) * hp.lora_rank
    per_token = (
        (18 if upcast else 12) * hidden
        + (14 if upcast else 8) * shape.intermediate_size
        + 4 * (shape.q_size + shape.kv_size + shape.num_attention_heads)
        + lora
    )
    return shape.num_hidden_layers * per_token * tokens


def _logits(shape: ModelShape, tokens: int, *, fused: bool) -> int:
    """Liger works in chunks of tokens so that a chunk's logits take about as much as the hidden
    states (liger_kernel `ops/fused_linear_cross_entropy.py`)."""
    if not fused:
        return LOGITS_BYTES * shape.vocab_size * tokens
    chunks = -(-shape.vocab_size // shape.hidden_size)
    chunk_tokens = 1 << (max(1, -(-tokens // chunks)) - 1).bit_length()
    hidden_gradient = tokens * shape.hidden_size * BF16
    return FUSED_LOGITS_BYTES * shape.vocab_size * min(chunk_tokens, tokens) + hidden_gradient
