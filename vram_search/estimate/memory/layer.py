"""The operations of one decoder layer, as transformers, peft and bitsandbytes run them.

Sources: transformers `models/*/modeling_*.py` (`DecoderLayer.forward`, `Attention.forward`,
`MLP.forward`, `RMSNorm.forward`), `integrations/sdpa_attention.py` (`sdpa_attention_forward`); peft
`tuners/lora/bnb.py` (`Linear4bit.forward`, `Linear8bitLt.forward`), `tuners/lora/layer.py`
(`Linear.forward`); bitsandbytes `nn/modules.py` (`Linear4bit.forward`), `autograd/_functions.py`
(`MatMul4Bit`, `MatMul8bitLt`). All under bf16 autocast. Checked against the allocator's event
streams of an H200 (docs/experiments.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.events import (
    LiveBytes,
    forward_events,
    live_bytes,
    recompute_events,
    run_backward,
)
from vram_search.estimate.memory.tape import NOTHING, Bytes, Tape, Tensor
from vram_search.spec.families import family_of
from vram_search.spec.shape import Linear, ModelShape


@dataclass(frozen=True)
class LayerSetup:
    """The settings that decide a layer's bytes per token."""

    shape: ModelShape
    lora_modules: frozenset[str]
    lora_rank: int
    drops_out: bool
    """LoRA's inputs go through dropout."""
    quantization: str
    upcast: bool
    """peft's `prepare_model_for_kbit_training` turned norms and embeddings into fp32."""
    attention: str
    """`flash`, `masked` (sdpa with a mask) or `eager`."""
    length: int
    """Tokens of a text where attention's matrices count (`masked`, `eager`); else 0."""
    fused: bool
    """Liger's kernels in place of norm, activation and rotation."""
    use_dora: bool = False
    hidden_element: int = BF16
    """Bytes of an element of the residual stream."""
    has_autocast: bool = True
    keeps_int8_inputs: bool = True
    """Off where checkpoints are re-entrant: their first forward pass runs without autograd."""


@dataclass(frozen=True)
class LayerBytes:
    """One layer, its input and output left out."""

    saved: tuple[Bytes, ...]
    """Each tensor for backward, where the layer's input requires a gradient."""
    saves_input: bool
    """The layer's input is among what backward needs."""
    saved_first: tuple[Bytes, ...]
    """As `saved`, in the first layer, whose input is the embedding and needs no gradient."""
    saves_first_input: bool
    kept_without_gradients: tuple[Bytes, ...]
    """Bytes that a checkpointed forward keeps nevertheless (bitsandbytes' 8-bit state)."""
    forward: tuple[LiveBytes, ...]
    """Moments of the forward pass that saves; saved tensors included, as in the other two."""
    recomputed: tuple[LiveBytes, ...]
    """Moments of the same pass within the backward pass, if the layer is checkpointed."""
    backward: tuple[LiveBytes, ...]


@lru_cache(maxsize=4096)
def layer_bytes(setup: LayerSetup) -> LayerBytes:
    """Bytes per token of one decoder layer, and its moments."""
    tape, hidden = record_layer(setup, input_requires_grad=True)
    first, first_hidden = record_layer(setup, input_requires_grad=False)
    leaks = {id(tensor): tensor.bytes for tensor in tape.leaks if tensor is not hidden}
    saved = tape.saved(without=hidden)
    gradients, recomputed = recompute_events(tape, hidden)
    backward = run_backward(tape, hidden).events
    return LayerBytes(
        saved=saved,
        saves_input=any(tensor is hidden for tensor in tape.saved_tensors()),
        saved_first=first.saved(without=first_hidden),
        saves_first_input=any(tensor is first_hidden for tensor in first.saved_tensors()),
        kept_without_gradients=tuple(leaks.values()),
        forward=_highest(live_bytes(forward_events(tape, hidden, saving=True))),
        recomputed=_highest(live_bytes(recomputed, start=gradients)),
        backward=_highest(live_bytes(backward, start=sum(saved, NOTHING))),
    )


def _highest(moments: list[LiveBytes]) -> tuple[LiveBytes, ...]:
    """The moments that no other moment exceeds in both terms."""
    kept: dict[Bytes, LiveBytes] = {}
    for moment in moments:
        kept.setdefault(moment.total, moment)
    largest_first = sorted(kept, key=lambda one: (one.per_token, one.constant), reverse=True)
    highest: set[Bytes] = set()
    largest_constant = -math.inf
    for total in largest_first:
        if total.constant > largest_constant:
            highest.add(total)
            largest_constant = total.constant
    return tuple(moment for total, moment in kept.items() if total in highest)


def record_layer(setup: LayerSetup, *, input_requires_grad: bool) -> tuple[Tape, Tensor]:
    shape = setup.shape
    tape = Tape()
    hidden = Tensor(shape.hidden_size, setup.hidden_element, input_requires_grad)
    by_name = {linear.name: linear for linear in shape.linears}
    run = _Runner(tape, setup, by_name)

    x = hidden
    if shape.pre_norm:
        x = run.norm(x)
    attended = run.attention(x)
    if shape.post_norm:
        attended = run.norm(attended)
    if shape.residual_multiplier:
        attended = tape.run((attended,), shape.hidden_size, attended.element_bytes)
    after_attention = run.add(hidden, attended)
    x = after_attention
    if shape.pre_norm:
        x = run.norm(x)
    out = run.mlp(x)
    if shape.post_norm:
        out = run.norm(out)
    if shape.residual_multiplier:
        out = tape.run((out,), shape.hidden_size, out.element_bytes)
    run.add(after_attention, out)
    return tape, hidden


@dataclass
class _Runner:
    tape: Tape
    setup: LayerSetup
    linears: dict[str, Linear]

    def add(self, a: Tensor, b: Tensor, holds: tuple[Tensor, ...] = ()) -> Tensor:
        element = max(a.element_bytes, b.element_bytes)
        return self.tape.run((a, b), a.features, element, holds=holds, passes_gradient=True)

    def norm(self, x: Tensor, features: float | None = None) -> Tensor:
        """`weight * (x.float() * rsqrt(mean(x.float() ** 2)))`; the weight is frozen."""
        size = features or x.features
        weight = FP32 if self.setup.upcast else BF16
        out_element = max(weight, x.element_bytes)
        keeps_dtype = family_of(self.setup.shape.model_type).norm_keeps_dtype
        if keeps_dtype:
            out_element = x.element_bytes
        if self.setup.fused:
            scale = Tensor(size / self.setup.shape.hidden_size, FP32)
            return self.tape.run(
                (x,), size, x.element_bytes, saves=(x, scale), passes_gradient=not keeps_dtype
            )
        wide = x
        if x.element_bytes == BF16:
            wide = self.tape.run((x,), size, FP32)
        scale = Tensor(1, FP32)
        normed = self.tape.run(
            (wide,), size, FP32, saves=(wide, scale), backward_temporary=wide.bytes
        )
        if x.element_bytes == BF16:
            normed = self.tape.run((normed,), size, BF16)
        return self.tape.run((normed,), size, out_element)

    def linear(self, x: Tensor, name: str, holds: tuple[Tensor, ...] = ()) -> Tensor:
        """The frozen layer, and LoRA's B(A(x)) beside it where the layer is a target."""
        linear = self.linears[name]
        weight = Bytes(0, BF16 * linear.parameters)
        quantized = self.setup.quantization != "none"
        if self.setup.quantization == "int8" and x.requires_grad and self.setup.keeps_int8_inputs:
            self.tape.leaks.append(x)
        narrow = x
        if x.element_bytes == FP32:
            narrow = self.tape.run((x,), linear.in_features, BF16)
        saves: tuple[Tensor, ...] = ()
        if not quantized and self.setup.upcast:  # autocast's copy of an fp32 weight
            saves = (Tensor(0, BF16, constant=weight.constant),)
        temporaries: tuple[Bytes, ...] = (weight,) if quantized else ()
        if self.setup.quantization == "int8":
            # int8 input, then the int32 product; before it the fp16 copy, |x| and a comparison
            # (bitsandbytes `backends/cuda/ops.py`, `int8_vectorwise_quant`).
            rest = max(5 * linear.in_features, FP32 * linear.out_features)
            temporaries = (Bytes(linear.in_features), Bytes(rest))
        out = self.tape.run(
            (narrow,),
            linear.out_features,
            BF16,
            saves=saves,
            forward_temporaries=temporaries,
            backward_temporary=weight if quantized else NOTHING,
            holds=(x, *holds),
        )
        if quantized and x.element_bytes == FP32:
            out = self.tape.run((out,), linear.out_features, FP32, holds=(x, *holds))
        if name not in self.setup.lora_modules:
            return out
        if self.setup.use_dora:
            return self._dora(x, out, linear, holds)
        lora_x = wide = x
        casts = not (quantized and self.setup.has_autocast)
        if casts and x.element_bytes == BF16:  # to the dtype of A, then autocast's
            lora_x = wide = self.tape.run((x,), linear.in_features, FP32)
        if self.setup.drops_out:
            # CUDA's fused kernel keeps one byte an element (ATen/native/cuda/Dropout.cu).
            mask = Tensor(linear.in_features, 1)
            lora_x = self.tape.run(
                (lora_x,), linear.in_features, lora_x.element_bytes, saves=(mask,)
            )
        if lora_x.element_bytes == FP32 and self.setup.has_autocast:
            lora_x = self.tape.run((lora_x,), linear.in_features, BF16)
        element = lora_x.element_bytes
        a = self.tape.run((lora_x,), self.setup.lora_rank, element, saves=(lora_x,), trains=True)
        b = self.tape.run((a,), linear.out_features, element, saves=(a,), trains=True)
        scaled = self.tape.run((b,), linear.out_features, element)
        added = self.add(out, scaled, holds=(x, wide, *holds))
        if added.element_bytes == out.element_bytes:
            return added
        return self.tape.run((added,), linear.out_features, out.element_bytes)

    def _dora(
        self, x: Tensor, out: Tensor, linear: Linear, holds: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """Adds DoRA's part to a frozen layer's output, which becomes fp32 (peft
        `tuners/lora/dora.py`, `DoraLinearLayer.forward`)."""
        tape, size = self.tape, linear.out_features
        weights = self._dora_weights(x, linear)
        lora_x = x
        if self.setup.drops_out:
            mask = Tensor(linear.in_features, 1)
            lora_x = tape.run((x,), linear.in_features, x.element_bytes, saves=(mask,))
        narrow = lora_x
        if lora_x.element_bytes == FP32:
            narrow = tape.run((lora_x,), linear.in_features, BF16, holds=(weights,))
        a = tape.run((narrow,), self.setup.lora_rank, BF16, saves=(narrow,), trains=True)
        b = tape.run((a,), size, BF16, saves=(a,), trains=True, holds=(weights,))
        base = out
        if self.setup.drops_out:  # the frozen product again, of the thinned input
            weight = Tensor(0, BF16, constant=BF16 * linear.parameters)
            base = tape.run((narrow,), size, BF16, saves=(weight,), holds=(weights,))
        wide = Bytes(FP32 * size)
        held = (x, weights, *holds)
        own = tape.run(
            (base,), size, FP32, saves=(base,), trains=True, backward_temporary=wide, holds=held
        )
        scaled = tape.run(
            (b,), size, FP32, saves=(b,), trains=True, backward_temporary=wide, holds=held
        )
        scaled = tape.run((scaled,), size, FP32, holds=held)
        added = tape.run((own, scaled), size, FP32, passes_gradient=True, holds=held)
        return self.add(out, added, holds=(x, *holds))

    def _dora_weights(self, x: Tensor, linear: Linear) -> Tensor:
        """The frozen weight and the adapter's product, both of the weight's size, and an identity
        matrix, which the norms of the columns are computed from; all live until the layer ends."""
        square, whole = linear.in_features**2, linear.parameters
        element = x.element_bytes
        kept = BF16 * square + 2 * element * whole
        product = (FP32 + BF16) * square + BF16 * whole  # B(A(identity)), under autocast
        copies = (FP32 - BF16) * whole if element == BF16 else 0
        norms = kept + 2 * element * whole + copies
        sums = Bytes(0, max(product, norms) - kept)
        weights = self.tape.run((x,), 0, BF16, forward_temporaries=(sums,))
        weights.requires_grad, weights.constant = False, kept
        return weights

    def attention(self, x: Tensor) -> Tensor:
        shape = self.setup.shape
        if "qkv_proj" in self.linears:
            q = k = v = self.linear(x, "qkv_proj")
        else:
            q, k, v = (self.linear(x, name) for name in ("q_proj", "k_proj", "v_proj"))
        if shape.qk_norm:
            q = self.norm(q, shape.q_size)
            k = self.norm(k, shape.kv_size)
        q = self._rotate(q, shape.q_size)
        k = self._rotate(k, shape.kv_size)
        attend = self._eager if self.setup.attention == "eager" else self._sdpa
        return self.linear(attend(q, k, v), "o_proj", holds=(x,))

    def _rotate(self, x: Tensor, features: float) -> Tensor:
        """`x * cos + rotate_half(x) * sin`; cos and sin need no gradient."""
        temporary = Bytes(features * x.element_bytes)
        return self.tape.run(
            (x,),
            features,
            x.element_bytes,
            forward_temporaries=(temporary, temporary),
            backward_temporary=temporary + temporary,
        )

    def _narrow(self, x: Tensor, features: float) -> Tensor:
        return x if x.element_bytes == BF16 else self.tape.run((x,), features, BF16)

    def _sdpa(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = self.setup.shape
        saves: tuple[Tensor, ...] = ()
        kv_size = shape.kv_size
        if self.setup.attention == "masked":
            # No grouped heads then: k and v are repeated, and the mask becomes bf16. A single head
            # is repeated without a copy: the expanded tensor is a view.
            if kv_size != shape.q_size and shape.num_key_value_heads > 1:
                k = self.tape.run((k,), shape.q_size, k.element_bytes)
                v = self.tape.run((v,), shape.q_size, v.element_bytes)
            kv_size = shape.q_size
            saves = (Tensor(self.setup.length, BF16),)
        q = self._narrow(q, shape.q_size)
        k = self._narrow(k, kv_size)
        v = self._narrow(v, kv_size)
        logsumexp = Tensor(shape.num_attention_heads, FP32)
        # Flash's backward: an fp32 accumulator for dq, and dk and dv of every query head.
        grouped = k.features != shape.q_size
        backward = Bytes(FP32 * shape.q_size + (2 * BF16 * shape.q_size if grouped else 0))
        out = self.tape.run(
            (q, k, v),
            shape.q_size,
            BF16,
            saves=(q, k, v, logsumexp, *saves),
            saves_output=True,
            backward_temporary=backward,
        )
        if "qkv_proj" in self.linears:
            # Phi-3 concatenates the rotated part of q with the rest, heads first; the output has
            # that layout too, and `.contiguous()` copies it.
            out = self.tape.run((out,), shape.q_size, BF16)
        return out

    def _eager(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`softmax(q @ k.T, fp32) @ v` with k and v repeated for every query head."""
        shape, length = self.setup.shape, self.setup.length
        q = self._narrow(q, shape.q_size)
        k = self._narrow(self.tape.run((k,), shape.q_size, k.element_bytes), shape.q_size)
        v = self._narrow(self.tape.run((v,), shape.q_size, v.element_bytes), shape.q_size)
        matrix = shape.num_attention_heads * length
        scores = self.tape.run((q, k), matrix, BF16, saves=(q, k))
        scores = self.tape.run((scores,), matrix, BF16)
        if shape.attention_softcap:
            divided = self.tape.run((scores,), matrix, BF16)
            bounded = self.tape.run((divided,), matrix, BF16, saves_output=True)
            scores = self.tape.run((bounded,), matrix, BF16)
        masked = self.tape.run((scores,), matrix, FP32 if self.setup.upcast else BF16)
        narrowed = 0 if self.setup.upcast else FP32 - BF16  # the gradient is fp32 at first
        soft = self.tape.run(
            (masked,),
            matrix,
            FP32,
            saves_output=True,
            backward_temporary=Bytes((FP32 + narrowed) * matrix),
        )
        weights = self.tape.run((soft,), matrix, BF16)
        out = self.tape.run((weights, v), shape.q_size, BF16, saves=(weights, v))
        return self.tape.run((out,), shape.q_size, BF16)

    def mlp(self, x: Tensor) -> Tensor:
        return self._experts(x) if self.setup.shape.expert_parameters else self._gated(x)

    def _experts(self, x: Tensor) -> Tensor:
        """The work of the experts of one token together; their weights are bf16 and no targets."""
        shape = self.setup.shape
        width = shape.intermediate_size
        pair = self.tape.run((self._narrow(x, shape.hidden_size),), 2 * width, BF16)
        active = self.tape.run((pair,), width, BF16, saves=(pair,))
        product = self.tape.run((active, pair), width, BF16, saves=(active, pair))
        return self.tape.run((product,), shape.hidden_size, BF16)

    def _gated(self, x: Tensor) -> Tensor:
        intermediate = self.setup.shape.intermediate_size
        if "gate_up_proj" in self.linears:
            gate = up = self.linear(x, "gate_up_proj")
        else:
            gate, up = self.linear(x, "gate_proj"), self.linear(x, "up_proj")
        element = gate.element_bytes
        if self.setup.fused:
            product = self.tape.run(
                (gate, up), intermediate, element, saves=(gate, up), in_place=True
            )
        else:
            active = self.tape.run((gate,), intermediate, element, saves=(gate,))
            product = self.tape.run((active, up), intermediate, element, saves=(active, up))
        return self.linear(product, "down_proj", holds=(x,))
