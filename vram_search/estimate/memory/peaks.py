"""The bytes that come and go, at the moments that may be the peak of a training.

A decoder layer is followed by `tape`; the model is that layer, repeated, with the loss behind it.
"""

from __future__ import annotations

from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.events import LiveBytes
from vram_search.estimate.memory.layer import LayerBytes, LayerSetup, layer_bytes
from vram_search.estimate.memory.objectives import SFT, TILE_TOKENS, TILE_VOCABULARY
from vram_search.estimate.memory.persistent import (
    adapter_bytes,
    adapter_copy_bytes,
    fresh_block,
    step_bytes,
)
from vram_search.estimate.memory.tape import NOTHING, Bytes
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.families import MODELLED
from vram_search.spec.liger import liger_patches
from vram_search.spec.shape import ModelShape

Parts = dict[str, float]
"""Bytes by their name."""


def fuses_loss(workload: Workload) -> bool:
    """The loss is computed chunk by chunk, so that there are no logits."""
    if workload.objective != SFT:
        return not workload.loss.logit_bytes
    if workload.cut_cross_entropy:
        return True
    return workload.fused_linear_cross_entropy and _liger_fuses_loss(workload.shape)


def _liger_fuses_loss(shape: ModelShape) -> bool:
    """Liger's own table decides for a family without a formula."""
    if shape.model_type in MODELLED:
        return MODELLED[shape.model_type].liger_fuses_loss
    tree = shape.tree
    whole, text = (tree.model_type, tree.text_model_type) if tree else (shape.model_type, "")
    patches = liger_patches(whole, text)
    return patches is not None and patches.fuses_loss


def computes_eval_logits(workload: Workload) -> bool:
    """There is an evaluation, and its logits are wanted or its loss is not fused."""
    if workload.objective != SFT:
        return workload.per_device_eval_batch_size > 0 and workload.loss.eval_logit_bytes > 0
    if workload.cut_cross_entropy:
        return False
    fused = fuses_loss(workload) and workload.prediction_loss_only
    return workload.per_device_eval_batch_size > 0 and not fused


def hidden_element(workload: Workload) -> int:
    """Bytes of an element of the hidden states."""
    is_wide = workload.prepare_for_kbit_training or workload.widens_hidden_states
    return FP32 if is_wide else BF16


def head_copy_bytes(workload: Workload) -> int:
    """Autocast's copy of a head that was turned into fp32."""
    shape = workload.shape
    upcast = workload.prepare_for_kbit_training
    return BF16 * shape.vocab_size * shape.hidden_size if upcast else 0


def attentions(workload: Workload) -> dict[str, int]:
    """Kernels of attention, each with the number of layers that use it."""
    shape = workload.shape
    if workload.attention == "eager":
        return {"eager": shape.num_hidden_layers}
    if workload.has_mask:
        return {"masked": shape.num_hidden_layers}
    sliding = 0
    if shape.sliding_window and workload.cutoff_len >= shape.sliding_window:
        sliding = shape.sliding_layers
    layers = {"masked": sliding, "flash": shape.num_hidden_layers - sliding}
    return {attention: count for attention, count in layers.items() if count}


def layer_setup(workload: Workload, attention: str) -> LayerSetup:
    """The settings that decide a layer's bytes in this training."""
    return LayerSetup(
        shape=workload.shape,
        lora_modules=frozenset(name.rpartition(".")[2] for name in workload.lora_modules),
        lora_rank=workload.lora_rank,
        drops_out=workload.lora_dropout > 0,
        use_dora=workload.use_dora,
        hidden_element=hidden_element(workload),
        quantization=workload.quantization,
        upcast=workload.prepare_for_kbit_training,
        attention=attention,
        length=workload.cutoff_len if attention != "flash" else 0,
        fused=workload.fused_linear_cross_entropy,
        has_autocast=workload.has_autocast,
        keeps_int8_inputs=not (
            workload.gradient_checkpointing and workload.reentrant_checkpointing
        ),
    )


def moments(workload: Workload) -> dict[str, Parts]:
    """Parts at each moment that may be the peak: the loss (or the fused loss), the backward pass of
    a layer, an evaluation, the optimizer's step."""
    kinds = [
        (layer_bytes(layer_setup(workload, attention)), count)
        for attention, count in attentions(workload).items()
    ]
    saved = _saved_bytes(workload, kinds)
    found = {"layer backward": _layer_backward(workload, [kind for kind, _ in kinds], saved)}
    if fuses_loss(workload):
        found["fused loss"] = _fused_loss(workload, saved)
    else:
        found["loss"] = _loss(workload, saved)
    if computes_eval_logits(workload):
        found["evaluation"] = _evaluation(workload)
    return found | optimizer_step(workload)


def optimizer_step(workload: Workload) -> dict[str, Parts]:
    """Parts during the update of the adapter; empty for an optimizer without temporary tensors,
    whose step needs less than the backward pass before it."""
    temporary = step_bytes(workload)
    if not temporary:
        return {}
    return {"optimizer step": {"gradients": adapter_bytes(workload), "temporaries": temporary}}


def _saved_bytes(workload: Workload, kinds: list[tuple[LayerBytes, int]]) -> float:
    """Bytes kept for the backward pass once the forward pass is through."""
    shape, element = workload.shape, hidden_element(workload)
    state = element * shape.hidden_size * workload.tokens
    last_norm = _last_norm_bytes(workload)
    first = kinds[0][0]
    if workload.gradient_checkpointing:
        # Each layer's input, and the last hidden state where the norm does not widen it. Granite
        # multiplies its embedding, which is a second tensor.
        kept = sum(count * _total(kind.kept_without_gradients, workload) for kind, count in kinds)
        states = shape.num_hidden_layers + shape.residual_multiplier
        return kept + states * state + last_norm + _small_bytes(workload, workload.tokens)
    kept = _total(first.saved_first, workload) - _total(first.saved, workload)
    kept += sum(count * _total(kind.saved, workload) for kind, count in kinds)
    inputs = (shape.num_hidden_layers - 1) * first.saves_input + first.saves_first_input
    return kept + inputs * state + last_norm + _small_bytes(workload, workload.tokens)


def _last_norm_bytes(workload: Workload) -> int:
    """Bytes that the norm after the last layer saves: its input, in fp32 without Liger."""
    element = hidden_element(workload) if workload.fused_linear_cross_entropy else FP32
    return element * workload.shape.hidden_size * workload.tokens


def _layer_backward(workload: Workload, kinds: list[LayerBytes], saved: float) -> Parts:
    tokens, layers = workload.tokens, workload.shape.num_hidden_layers
    copies = adapter_copy_bytes(workload)
    kind, moment = max(
        ((kind, moment) for kind in kinds for moment in _layer_moments(workload, kind)),
        key=lambda pair: pair[1].total.of(tokens),
    )
    live, temporary = moment.live.of(tokens), moment.temporary.of(tokens)
    saved -= _last_norm_bytes(workload)
    if not workload.gradient_checkpointing:
        own = sum(tensor.of(tokens) for tensor in kind.saved)
        return {
            "saved_activations": max(0.0, saved - own),  # the first of layers keeps less
            "gradients": _earlier_gradients(workload),
            "adapter_copies": copies,
            "layer": live,
            "temporaries": temporary,
        }
    recomputed = {"recomputed_layer": live, "temporaries": temporary}
    state = hidden_element(workload) * workload.shape.hidden_size * tokens
    of_last_layer = {
        "saved_activations": saved,
        "gradients": _earlier_gradients(workload),
        "adapter_copies": copies / layers,
        **recomputed,
    }
    of_first_layer = {
        "saved_activations": saved - (layers - 1) * state,
        "gradients": adapter_bytes(workload),
        **recomputed,
    }
    return max(of_last_layer, of_first_layer, key=lambda parts: sum(parts.values()))


def _layer_moments(workload: Workload, kind: LayerBytes) -> list[LiveBytes]:
    """Returns the moments of the last layer. During the forward pass, the model's frame keeps the
    embedding (transformers `modeling_*.py`, `inputs_embeds`)."""
    if workload.gradient_checkpointing:
        return [*kind.recomputed, *kind.backward]
    per_token = hidden_element(workload) * workload.shape.hidden_size
    embedding = NOTHING if kind.saves_first_input else Bytes(per_token)
    forward = [LiveBytes(moment.live + embedding, moment.temporary) for moment in kind.forward]
    return [*forward, *kind.backward]


def _loss(workload: Workload, saved: float) -> Parts:
    """Log-softmax, its gradient and the gradient of its output, each fp32 (transformers
    `loss/loss_utils.py`, `ForCausalLMLoss`)."""
    entries = workload.shape.vocab_size * workload.tokens
    softcap = BF16 * entries if workload.shape.final_softcap else 0
    wide = fresh_block(FP32 * entries, expandable=workload.expandable_segments)
    copies = 0 if workload.gradient_checkpointing else adapter_copy_bytes(workload)
    logits = 3 * wide + softcap
    if workload.objective != SFT:
        logits = (
            workload.loss.peak_bytes(workload.texts) * entries
            + softcap
            + _loss_hidden_bytes(workload)
        )
    return {
        "saved_activations": saved,
        "gradients": _earlier_gradients(workload),
        "adapter_copies": copies,
        "head_copy": fresh_block(head_copy_bytes(workload)),
        "logits": logits,
    }


def _loss_hidden_bytes(workload: Workload) -> int:
    """Copies of the last hidden states that a preference loss makes."""
    return workload.loss.hidden_bytes * workload.shape.hidden_size * workload.tokens


def _fused_loss(workload: Workload, saved: float) -> Parts:
    """One chunk of liger's loss (liger_kernel `ops/fused_linear_cross_entropy.py`,
    `fused_linear_cross_entropy_forward`), the normed hidden states and their gradient."""
    hidden = 2 * hidden_element(workload) * workload.shape.hidden_size * workload.tokens
    hidden += _loss_hidden_bytes(workload)
    return {
        "saved_activations": saved,
        "gradients": _earlier_gradients(workload),
        "adapter_copies": adapter_copy_bytes(workload),
        "head_copy": head_copy_bytes(workload),
        "logits": fused_chunk_bytes(workload) + hidden,
    }


def fused_chunk_bytes(workload: Workload) -> int:
    """Logits of one chunk of the fused loss."""
    shape, tokens = workload.shape, workload.tokens
    if workload.tiled_loss or workload.loss.has_tiles:
        # A tile is as wide where the vocabulary is smaller.
        return BF16 * min(tokens, TILE_TOKENS) * TILE_VOCABULARY
    if workload.objective != SFT:
        return 0
    chunks = -(-shape.vocab_size // shape.hidden_size)
    chunk = min(tokens, 1 << (max(1, -(-tokens // chunks)) - 1).bit_length())
    return BF16 * shape.vocab_size * chunk


def _evaluation(workload: Workload) -> Parts:
    """bf16 logits, and the fp32 copy and log-softmax of as many as are looked at together."""
    shape, tokens = workload.shape, workload.eval_tokens
    state = hidden_element(workload) * shape.hidden_size * tokens
    a_token = BF16 * tokens + 2 * FP32 * workload.eval_fp32_tokens
    if workload.objective != SFT:
        a_token = workload.loss.eval_logit_bytes * tokens
    return {
        "evaluation_logits": shape.vocab_size * a_token,
        "saved_activations": state + _small_bytes(workload, tokens),
        "adapter_copies": adapter_copy_bytes(workload),
    }


def _earlier_gradients(workload: Workload) -> int:
    """Gradients of the micro-batches before."""
    return adapter_bytes(workload) if workload.gradient_accumulation_steps > 1 else 0


def _total(tensors: tuple[Bytes, ...], workload: Workload) -> float:
    """Blocks of tensors that each may get a segment of their own."""
    expandable = workload.expandable_segments
    return sum(
        fresh_block(round(tensor.of(workload.tokens)), expandable=expandable) for tensor in tensors
    )


def _small_bytes(workload: Workload, tokens: int) -> float:
    """Rotary tables, ids, labels and masks."""
    element = hidden_element(workload)
    tables = 2 * workload.cutoff_len * workload.shape.head_dim * element
    mask = 0
    if workload.attention == "eager":
        mask = element * workload.texts * workload.cutoff_len**2
    elif workload.has_mask:
        mask = workload.texts * workload.cutoff_len**2
    return tables + mask + (5 * 8 + FP32) * tokens
