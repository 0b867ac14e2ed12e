"""liger-kernel's layers and its fused loss on fake tensors: what they request and keep.

Its Triton kernels need a GPU, so the same tensors are made here without computing anything. After
liger-kernel 0.8.5, `ops/`: `rms_norm.py`, `swiglu.py`, `geglu.py`, `relu_squared.py`, `rope.py`,
`fused_linear_cross_entropy.py`. It overwrites gradients and saved inputs where it can.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd import Function

from vram_search.spec.liger import LigerPatches
from vram_search.trace.recorder import Recorder

CHUNK, AFTER_CHUNK = "chunk", "tail"
"""Phases of the fused loss. During the first there are logits of some tokens: so many that the
bytes are no polynomial of tokens. So they are not recorded; an estimate adds them."""


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, in_place: bool) -> Tensor:
        states = states.contiguous()
        scales = torch.empty(states.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(states, weight, scales)
        ctx.in_place = in_place
        return torch.empty_like(states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0].contiguous()
        return gradient if ctx.in_place else torch.zeros_like(gradient), None, None


class _Gate(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, multiplier: float) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        ctx.multiplier = multiplier
        result = torch.empty_like(gate)
        return result if multiplier == 1.0 else result * multiplier

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0].contiguous()
        if ctx.multiplier != 1.0:
            gradient = gradient * ctx.multiplier
        gate, up = ctx.saved_tensors
        return gate, up, None


class _Squared(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        states = states.contiguous()
        ctx.save_for_backward(states)
        return torch.empty_like(states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return torch.empty_like(gradients[0].contiguous())


class _Rope(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> Any:
        ctx.save_for_backward(cos.contiguous(), sin.contiguous())
        return _by_token(query), _by_token(key)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key = gradients
        return _by_token(query), _by_token(key), None, None


def _by_token(states: Tensor) -> Tensor:
    return states.transpose(1, 2).contiguous().transpose(1, 2)


class _FusedLoss(Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, labels: Tensor, recorder: Recorder
    ) -> Tensor:
        gradient = torch.zeros_like(states)
        losses = torch.zeros(len(states), dtype=torch.float32)
        is_counted = labels != -100
        is_counted.sum()
        recorder.stream.mark(CHUNK)
        copies = [states.new_empty(1)]
        if states.dtype != torch.bfloat16:  # autocast casts what is multiplied
            copies = [tensor.to(torch.bfloat16) for tensor in (states, weight)]
        del copies
        recorder.stream.mark(AFTER_CHUNK)
        ctx.save_for_backward(gradient)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return ctx.saved_tensors[0], None, None, None


@contextmanager
def liger_kernels(
    model: Any, layers: nn.ModuleList, patches: LigerPatches, recorder: Recorder
) -> Iterator[None]:
    """Replaces a model's layers and its loss as Liger does.

    Args:
        model: without its adapter; the adapter's layers are attached to it.
        layers: its decoder layers.
    """
    decoder = model.get_decoder() or model
    final = patches.final_norm_in_place
    for name, module in decoder.named_modules():
        last = name.rpartition(".")[2]
        if name == patches.final_norm:
            _patch_norm(module, patches.norms_in_place if final is None else final)
        elif last in patches.norms and "RMSNorm" in type(module).__name__:
            _patch_norm(module, patches.norms_in_place)
        elif last in patches.mlps:
            _patch_mlp(module, patches.activation)
    if patches.fuses_loss:
        _fuse_loss(model, patches, recorder)
    with ExitStack() as stack:
        code = sys.modules[type(layers[0]).__module__]
        if patches.rope and hasattr(code, "apply_rotary_pos_emb"):
            stack.enter_context(mock.patch.object(code, "apply_rotary_pos_emb", _rotated))
        yield


def _rotated(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *_: Any, **__: Any) -> Any:
    return _Rope.apply(query, key, cos, sin)


def _patch_norm(module: Any, in_place: bool) -> None:
    if isinstance(getattr(module, "weight", None), Tensor):
        module.forward = lambda states: _Norm.apply(states, module.weight, in_place)


def _patch_mlp(module: Any, activation: str) -> None:
    if activation == "squared":
        module.act_fn = _Squared.apply
        return
    multiplier = float(getattr(module, "down_multiplier", 1.0))

    def gated(states: Tensor) -> Tensor:
        result = _Gate.apply(module.gate_proj(states), module.up_proj(states), multiplier)
        return module.down_proj(result)

    def split(states: Tensor) -> Tensor:
        gate, up = module.gate_up_proj(states).chunk(2, dim=-1)
        return module.down_proj(_Gate.apply(gate, up, 1.0))

    if activation == "gate_up" and hasattr(module, "gate_up_proj"):
        module.forward = split
    elif hasattr(module, "gate_proj"):
        module.forward = gated


def _fuse_loss(model: Any, patches: LigerPatches, recorder: Recorder) -> None:
    """Passes the last hidden states to the loss; the head gives logits of one token of its own."""
    head = model.get_output_embeddings()
    usual = head.forward
    kept: list[Tensor] = []

    def without_logits(states: Tensor) -> Any:
        if not model.training:
            return usual(states)
        kept.append(states * 1.0 if patches.scales_last_states else states)
        return states[..., :1]

    def fused(labels: Tensor, num_items_in_batch: Any = None, **_: Any) -> Tensor:
        labels = nn.functional.pad(labels, (0, 1), value=-100)[..., 1:].contiguous()
        states = kept.pop()
        states = states.view(-1, states.shape[-1])
        loss: Tensor = _FusedLoss.apply(states, head.weight, labels.view(-1), recorder)
        return loss if num_items_in_batch is None else loss / num_items_in_batch

    def loss_function(logits: Any = None, labels: Any = None, *_: Any, **others: Any) -> Tensor:
        return fused(labels, **{k: v for k, v in others.items() if k == "num_items_in_batch"})

    head.forward = without_logits
    model.loss_function = loss_function
