"""Peak bytes of one training, without a GPU and without torch.

What stays (weights, adapter, states) is counted tensor by tensor (`static`). What comes and goes is
followed over one decoder layer by `tape`; the model is that layer, repeated. The peak is the highest
of a few moments: the loss, the backward pass of a layer, the fused loss, and an evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass

from vram_search.estimate.allocator import SMALL_REQUEST, CachingAllocator
from vram_search.estimate.hardware import Hardware
from vram_search.estimate.layer import BF16, FP32, LayerSetup, layer_bytes
from vram_search.estimate.loading import Loaded, load
from vram_search.estimate.static import (
    adapter_blocks,
    adapter_bytes,
    base_bytes,
    fresh_block,
    optimizer_blocks,
    optimizer_bytes,
    upcast_bytes,
)
from vram_search.estimate.stream import Sizes, layer_events, replay
from vram_search.estimate.tape import Bytes
from vram_search.estimate.workload import Workload
from vram_search.spec.card import Card
from vram_search.spec.hyperparameters import Hyperparameters
from vram_search.spec.plan import MemoryPlan
from vram_search.spec.shape import ModelShape
from vram_search.units import MIB

LIGER_FUSED_LOSS = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "llama",
        "mistral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    }
)
"""Families whose loss liger fuses by default (liger_kernel `transformers/monkey_patch.py`)."""

REQUIRED_SHARE = 0.9
"""Of what a roomy allocator takes beyond the allocated peak, a run under a limit needs up to this
much: the rest is cache that it can give back (recorded event streams of 33 runs, replayed under
falling limits; docs/experiments.md)."""
REQUIRED_RATIO_VARIED = 1.10
REQUIRED_RATIO_EXPANDABLE = 1.02
"""At least, against the allocated peak: varied lengths, and expandable segments (measured)."""


H200 = Hardware()


@dataclass(frozen=True)
class Estimate:
    """Predicted bytes; `parts` add up to `allocated_bytes`."""

    allocated_bytes: int
    """torch's `max_memory_allocated` of training and evaluation."""
    reserved_bytes: int
    """torch's `max_memory_reserved` on a card with room to spare."""
    required_bytes: int
    """Smallest allocator limit under which the run completes."""
    process_bytes: int
    """What NVML shows for the process on a roomy card: reserved + the card's context."""
    moment: str
    """When the peak is: `loss`, `layer backward`, `fused loss` or `evaluation`."""
    parts: dict[str, int]
    trainable_parameters: int

    def as_dict(self) -> dict[str, object]:
        """For the record and for JSON."""
        return {
            "allocated_bytes": self.allocated_bytes,
            "reserved_bytes": self.reserved_bytes,
            "required_bytes": self.required_bytes,
            "process_bytes": self.process_bytes,
            "moment": self.moment,
            "parts": dict(self.parts),
        }


def predict(workload: Workload, hardware: Hardware = H200) -> Estimate:
    """Predicted peak of a training with its evaluations.

    Args:
        hardware: what the card and its driver add.
    """
    stays = {
        **_weights(workload),
        "adapter": adapter_bytes(workload),
        "optimizer": optimizer_bytes(workload),
        "workspaces": _workspaces(workload, hardware),
    }
    moments = _moments(workload)
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    parts = {name: round(size) for name, size in (stays | moments[moment]).items() if size}
    allocated = sum(parts.values())
    reserved = max(allocated, replayed(workload, hardware).peak_reserved)
    if workload.expandable_segments:
        required = allocated * REQUIRED_RATIO_EXPANDABLE
    else:
        required = allocated + REQUIRED_SHARE * (reserved - allocated)
        if not workload.equal_lengths:
            required = max(required, allocated * REQUIRED_RATIO_VARIED)
    return Estimate(
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        required_bytes=round(required),
        process_bytes=reserved + hardware.context_bytes,
        moment=moment,
        parts=parts,
        trainable_parameters=workload.trainable_parameters,
    )


def _loaded(workload: Workload, *, upcast: bool) -> Loaded:
    return load(
        workload.shape,
        workload.quantization,
        double=workload.double_quantization,
        upcast=upcast,
    )


def _weights(workload: Workload) -> dict[str, int]:
    """Base weights and what their upcast adds."""
    if workload.expandable_segments:
        double = workload.double_quantization
        base = base_bytes(workload.shape, workload.quantization, double=double, expandable=True)
        return {"base_weights": base, "upcasts": upcast_bytes(workload)}
    base = _loaded(workload, upcast=False).allocated_bytes
    if not workload.prepare_for_kbit_training:
        return {"base_weights": base}
    return {
        "base_weights": base,
        "upcasts": _loaded(workload, upcast=True).allocated_bytes - base,
    }


def replayed(
    workload: Workload, hardware: Hardware = H200, limit: float = float("inf")
) -> CachingAllocator:
    """The allocator after two optimizer steps and an evaluation.

    Raises:
        OutOfMemoryError: the training does not complete below `limit`.
    """
    shape = workload.shape
    upcast = workload.prepare_for_kbit_training
    fused = workload.fused_linear_cross_entropy and shape.model_type in LIGER_FUSED_LOSS
    evaluates = not (fused and workload.prediction_loss_only)
    layers = shape.num_hidden_layers
    adapter, states = adapter_blocks(workload), optimizer_blocks(workload)
    copies = adapter_blocks(workload, BF16)
    sizes = Sizes(
        tokens=workload.tokens,
        layers=layers,
        small_bytes=layers * _small_pool(adapter + states),
        small_cached_bytes=layers * _small_pool(adapter + copies),
        large_adapter=_large_pool(adapter),
        large_states=_large_pool(states),
        workspace=hardware.cublas_workspace_bytes,
        hidden_element=FP32 if upcast else BF16,
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        head_copy=BF16 * shape.vocab_size * shape.hidden_size if upcast else 0,
        softcap=shape.final_softcap,
        scaled_logits=shape.residual_multiplier,
        checkpointing=workload.gradient_checkpointing,
        fused_logits=_fused_chunk(workload) if fused else 0,
        eval_tokens=workload.eval_tokens if evaluates else 0,
    )
    loaded = _loaded(workload, upcast=upcast)
    return replay(loaded, layer_events(_layer_setup(workload)), sizes, limit)


def _small_pool(blocks: list[int]) -> int:
    return sum(size for size in blocks if size <= SMALL_REQUEST)


def _large_pool(blocks: list[int]) -> int:
    return sum(size for size in blocks if size > SMALL_REQUEST)


def _workspaces(workload: Workload, hardware: Hardware) -> int:
    biased = any(linear.bias for linear in workload.shape.linears)
    threads = 2 if workload.gradient_checkpointing else 1
    return (
        2 * hardware.cublas_workspace_bytes + biased * threads * hardware.cublaslt_workspace_bytes
    )


def _layer_setup(workload: Workload) -> LayerSetup:
    length, window = workload.cutoff_len, workload.shape.sliding_window
    attention = "flash"
    if workload.attention == "eager":
        attention = "eager"
    elif (window and length >= window) or (
        not workload.equal_lengths and workload.per_device_train_batch_size > 1
    ):
        attention = "masked"
    return LayerSetup(
        shape=workload.shape,
        lora_modules=frozenset(workload.lora_modules),
        lora_rank=workload.lora_rank,
        quantization=workload.quantization,
        upcast=workload.prepare_for_kbit_training,
        attention=attention,
        length=length if attention != "flash" else 0,
        fused=workload.fused_linear_cross_entropy,
    )


def _moments(workload: Workload) -> dict[str, dict[str, float]]:
    """The bytes that come and go, by part, at each moment that may be the peak."""
    shape, tokens = workload.shape, workload.tokens
    layer = layer_bytes(_layer_setup(workload))
    layers, hidden = shape.num_hidden_layers, shape.hidden_size
    element = FP32 if workload.prepare_for_kbit_training else BF16
    checkpointing = workload.gradient_checkpointing
    state = element * hidden * tokens  # one hidden state
    earlier = adapter_bytes(workload) if workload.gradient_accumulation_steps > 1 else 0
    copies = adapter_bytes(workload, BF16)

    final_norm = 0.0 if element == FP32 else FP32 * hidden * tokens
    if checkpointing:
        kept = layers * _total(layer.kept_without_gradients, workload)
        saved = kept + (layers + (element == FP32)) * state + final_norm
    else:
        saved = _total(layer.saved_first, workload) + (layers - 1) * _total(layer.saved, workload)
        inputs = layers - 1 if layer.saves_input else 0
        saved += inputs * state + (state if element == FP32 else final_norm)
    saved += _small(workload, tokens)

    head = BF16 * shape.vocab_size * hidden if workload.prepare_for_kbit_training else 0
    moments: dict[str, dict[str, float]] = {}
    forward_copies = {"adapter_copies": copies}
    loss_copies = {} if checkpointing else forward_copies
    common = {"saved_activations": saved, "gradients": earlier}
    fused = workload.fused_linear_cross_entropy and shape.model_type in LIGER_FUSED_LOSS
    if fused:
        moments["fused loss"] = {
            **common,
            **forward_copies,
            "head_copy": head,
            "logits": _fused_logits(workload, element),
        }
    else:
        moments["loss"] = {
            **common,
            **loss_copies,
            "head_copy": fresh_block(head),
            "logits": _logits(workload),
        }

    highest = max(moment.of(tokens) for moment in layer.backward)
    own = sum(tensor.of(tokens) for tensor in layer.saved)
    if checkpointing:
        first = common | {"recomputed_layer": highest, "adapter_copies": copies / layers}
        last = {
            "saved_activations": saved - (layers - 1) * state,
            "gradients": adapter_bytes(workload),
            "recomputed_layer": highest,
        }
        moments["layer backward"] = max(first, last, key=lambda parts: sum(parts.values()))
    else:
        moments["layer backward"] = {
            **common,
            **forward_copies,
            "recomputed_layer": highest - own,
        }
    if workload.per_device_eval_batch_size and not (fused and workload.prediction_loss_only):
        moments["evaluation"] = _evaluation(workload, element, copies)
    return moments


def _total(tensors: tuple[Bytes, ...], workload: Workload) -> float:
    """Blocks of tensors that each may get a segment of their own."""
    expandable = workload.expandable_segments
    return sum(
        fresh_block(round(tensor.of(workload.tokens)), expandable=expandable) for tensor in tensors
    )


def _small(workload: Workload, tokens: int) -> float:
    """Rotary tables, ids, labels and masks."""
    element = FP32 if workload.prepare_for_kbit_training else BF16
    tables = 2 * workload.cutoff_len * workload.shape.head_dim * element
    mask = 0
    if workload.attention == "eager":
        mask = element * workload.per_device_train_batch_size * workload.cutoff_len**2
    return tables + mask + (5 * 8 + FP32) * tokens


def _logits(workload: Workload) -> float:
    """In the backward pass of the loss: log-softmax, its gradient and the gradient of its output,
    each fp32 (transformers `loss/loss_utils.py`, `ForCausalLMLoss`)."""
    shape = workload.shape
    entries = shape.vocab_size * workload.tokens
    softcap = BF16 * entries if shape.final_softcap else 0
    return 3 * fresh_block(FP32 * entries, expandable=workload.expandable_segments) + softcap


def _fused_logits(workload: Workload, element: int) -> float:
    """One chunk of liger's loss (liger_kernel `ops/fused_linear_cross_entropy.py`,
    `fused_linear_cross_entropy_forward`), the normed hidden states and their gradient."""
    hidden = 2 * element * workload.shape.hidden_size * workload.tokens
    return _fused_chunk(workload) + hidden


def _fused_chunk(workload: Workload) -> int:
    shape, tokens = workload.shape, workload.tokens
    chunks = -(-shape.vocab_size // shape.hidden_size)
    chunk = min(tokens, 1 << (max(1, -(-tokens // chunks)) - 1).bit_length())
    return BF16 * shape.vocab_size * chunk


def _evaluation(workload: Workload, element: int, copies: float) -> dict[str, float]:
    """bf16 logits, their fp32 copy and its log-softmax."""
    shape, tokens = workload.shape, workload.eval_tokens
    entries = shape.vocab_size * tokens
    logits = 5 * BF16 * entries
    return {
        "evaluation_logits": logits,
        "saved_activations": element * shape.hidden_size * tokens + _small(workload, tokens),
        "adapter_copies": copies,
    }


def estimate_base_bytes(shape: ModelShape) -> int:
    """Bytes of the base model on the card: NF4 with double quantisation, the rest in 16 bits."""
    return base_bytes(shape)


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
    """Predicted peak of a trial.

    Args:
        eval_cutoff_len: tokens of the longest evaluation text; None leaves evaluation out.
        equal_lengths: every text has `cutoff_len` tokens, so the allocator meets one shape only.
        upcast: peft's `prepare_model_for_kbit_training` was called, which turns what is not
            quantised into fp32. Our training does not call it, nor does LLaMA-Factory; others do.

    Raises:
        ValueError: the model lacks a LoRA module that is named.
    """
    hp = hyperparameters
    workload = Workload(
        shape=shape,
        lora_modules=tuple(shape.target_modules(hp.lora_target)),
        lora_rank=hp.lora_rank,
        optimizer=hp.optim,
        per_device_train_batch_size=plan.per_device_train_batch_size,
        cutoff_len=hp.cutoff_len,
        gradient_checkpointing=plan.gradient_checkpointing,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        prepare_for_kbit_training=upcast,
        fused_linear_cross_entropy=plan.enable_liger_kernel,
        per_device_eval_batch_size=plan.per_device_eval_batch_size if eval_cutoff_len else 0,
        eval_cutoff_len=eval_cutoff_len or 0,
        equal_lengths=equal_lengths,
        expandable_segments=plan.expandable_segments,
    )
    return predict(workload, Hardware.of(card))
