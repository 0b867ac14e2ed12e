"""CUDA's kernels in place of the CPU's: what they request, and which of them attention takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any
from unittest import mock

import bitsandbytes
import peft.tuners.lora.dora
import torch
import transformers.utils.import_utils
from torch import Tensor, nn
from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from vram_search.trace.autocast import cuda_autocast_rules
from vram_search.trace.meta_kernels import MetaKernels

LLM_INT8_THRESHOLD = 6.0
"""transformers `BitsAndBytesConfig`, default."""
MAX_FLASH_HEAD = 256
"""ATen/native/transformers/cuda/sdp_utils.cpp, `check_head_dim_size_flash`."""
MAX_CUDNN_HEAD = 128
FURTHER_CUDNN_HEADS = ((192, 128), (256, 256))
"""The same file, `check_cudnn_tensor_shapes`: sizes of a query's and a value's head. All versions
from torch 2.11 on take the first pair; some take the second."""

aten, bnb = torch.ops.aten, torch.ops.bitsandbytes
BELOW = frozenset({aten.lt.Scalar, aten.le.Scalar})


def run_operation(
    kernels: MetaKernels, function: Any, args: Any, kwargs: Any, *, padded: bool
) -> Any:
    """The operation; where it depends on values, as it goes for texts without outliers.

    A single number that is drawn at random is taken as 1: it decides whether a layer is left out
    (`torch.rand([]) < layerdrop`), and a training with all layers needs most.

    Args:
        padded: rows of a batch have different lengths, so that a check for padding finds some.
    """
    if function is aten._local_scalar_dense.default:
        return not padded
    if function is aten.index.Tensor:
        args = (args[0], _with_all_kept(args[1]))
    if function is bnb.int8_vectorwise_quant.default:
        rows, scales, _ = function(args[0])
        return rows, scales, args[0].new_empty(0, dtype=torch.int64)
    if function is bnb.int8_mixed_scaled_mm.default:
        a, narrow, weight, a_scale, scale, _, *bias = args
        out = bnb.int8_scaled_mm.default(narrow, weight, a_scale, scale, *bias, dtype=a.dtype)
        return out, a.new_empty(0)
    result = kernels.run(function, args, kwargs)
    if function is aten.rand.default and result.numel() == 1:
        result.is_one_draw = True
    elif function in BELOW and getattr(args[0], "is_one_draw", False):
        result.known_value = False
    return result


def _with_all_kept(indices: Any) -> list[Any]:
    """Indices with numbers in place of masks; a mask keeps everything, which needs most."""
    found: list[Any] = []
    for index in indices:
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            found += index.new_empty((index.numel(), index.ndim), dtype=torch.int64).unbind(1)
        else:
            found.append(index)
    return found


def scratch_bytes(function: Any, args: Any) -> list[int]:
    """Bytes that CUDA kernels request and release within one operation, which no dispatch shows."""
    if function is bnb.gemm_4bit.default:
        # bitsandbytes backends/cuda/ops.py, `_dequant_linear_fallback`
        return [args[0].element_size() * prod(args[2])]
    if function is bnb.int8_vectorwise_quant.default:
        # backends/cuda/ops.py, `int8_vectorwise_quant`: `A.abs()` and the comparison
        return [args[0].nbytes, args[0].numel()]
    if function is bnb.int8_mixed_scaled_mm.default:
        # backends/default/ops.py, `int8_scaled_mm`: the int32 product; `int8_mm_dequant`: fp16
        entries = args[1].shape[0] * args[2].shape[0]
        return [4 * entries, 2 * entries]
    if function is aten._softmax_backward_data.default:
        # ATen/native/cuda/SoftMax.cu, `softmax_backward_cuda_out`: grad * output
        return [args[0].nbytes]
    if function is aten._scaled_dot_product_flash_attention_backward.default:
        return _flash_backward_bytes(args[1], args[2])
    if function is aten._scaled_dot_product_efficient_attention_backward.default:
        # ATen/native/transformers/cuda/attention_backward.cu: an fp32 sum for dq
        return [4 * args[1].numel()]
    if function is aten._scaled_dot_product_cudnn_attention_backward.default:
        # ATen/native/cudnn/MHA.cpp, `run_cudnn_SDP_bprop`: an fp32 sum for dq in the workspace,
        # and the gradient in the layout of the output
        gradient, query, out = args[0], args[1], args[4]
        is_copied = gradient.stride() != out.stride()
        return [4 * query.numel(), *([gradient.nbytes] if is_copied else [])]
    if function is aten.index.Tensor:
        # ATen/native/IndexingUtils.h, `expandTensors`: positions of a mask's entries
        masks = [one for one in args[1] if isinstance(one, Tensor) and one.dtype == torch.bool]
        return [8 * mask.numel() * mask.ndim for mask in masks]
    return []


def _flash_backward_bytes(query: Tensor, key: Tensor) -> list[int]:
    """ATen/native/transformers/cuda/flash_attn/flash_api.cpp, `mha_bwd`: an fp32 sum for dq, the
    row sums, and dk and dv of every query head where heads are grouped."""
    batch, heads, length, head_dim = query.shape
    rows = batch * heads * -(-length // 128) * 128
    sizes = [4 * rows, 4 * rows * -(-head_dim // 32) * 32]
    if key.shape[1] != heads:
        sizes += [query.element_size() * batch * heads * key.shape[2] * head_dim] * 2
    return sizes


def _fits_cudnn(query: Tensor, value: Tensor) -> bool:
    heads = query.shape[-1], value.shape[-1]
    if any(size % 8 for size in heads):
        return False
    return max(heads) <= MAX_CUDNN_HEAD or heads in FURTHER_CUDNN_HEADS


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    prefers_cudnn: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` with CUDA's kernels: flash, or memory-efficient with a mask,
    with large heads, or with values of another size (ATen/native/transformers/attention.cpp;
    cuda/sdp_utils.cpp).

    Args:
        prefers_cudnn: the card takes cuDNN's kernel where it can. Like flash it lays its output
            out as the query, which a model may have to copy for its next product; the
            memory-efficient kernel always has tokens before heads. Where flash runs without it,
            cuDNN needs the same bytes.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    head_dim = max(query.shape[-1], value.shape[-1])
    are_equal = query.shape[-1] == value.shape[-1]
    if attn_mask is None and head_dim <= MAX_FLASH_HEAD and are_equal:
        return aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, scale=scale
        )[0]
    takes_cudnn = prefers_cudnn and _fits_cudnn(query, value)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and not takes_cudnn:
        key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    bias = None
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=dtype).masked_fill_(
                attn_mask.logical_not(), float("-inf")
            )
        batch, heads, length, _ = query.shape
        bias = attn_mask.to(dtype).expand(batch, heads, length, key.shape[2])
    if takes_cudnn:
        return aten._scaled_dot_product_cudnn_attention(
            query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
        )[0]
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` as CUDA's fused kernel has it (ATen/native/Dropout.cpp): a copy, and a mask of one
    byte an element. On the CPU the mask has the input's dtype."""
    return aten.native_dropout(input, p, training)[0] if training and p else input


def dequantized(linear: Any) -> Tensor:
    """peft `utils/integrations.py`, `dequantize_module_weight`, which knows a 4-bit weight by its
    class."""
    weight: Tensor = linear.weight
    state = getattr(weight, "quant_state", None)
    if state is not None:
        weight = bitsandbytes.functional.dequantize_4bit(weight.data, state)
    return weight


def matmul_int8(a: Tensor, b: Tensor, bias: Tensor | None, state: Any) -> Tensor:
    """bitsandbytes' product of 8-bit layers with the threshold of `from_pretrained`."""
    state.threshold = LLM_INT8_THRESHOLD
    return bitsandbytes.autograd._functions.MatMul8bitLt.apply(a, b, None, bias, state)


@contextmanager
def as_on_cuda(*, prefers_cudnn: bool = False) -> Iterator[None]:
    """Real branches for fake tensors, and CUDA's kernels and casts on the CPU.

    Args:
        prefers_cudnn: as in `attention`.
    """
    of_card = partial(attention, prefers_cudnn=prefers_cudnn)
    is_autocast_enabled = torch.is_autocast_enabled
    with (
        cuda_autocast_rules(),
        mock.patch.object(torch, "is_autocast_enabled", lambda *_: is_autocast_enabled("cpu")),
        mock.patch.object(transformers.utils.import_utils, "is_fake_tensor", lambda _: False),
        mock.patch.object(nn.functional, "scaled_dot_product_attention", of_card),
        mock.patch.object(nn.functional, "dropout", dropout),
        mock.patch.object(bitsandbytes, "matmul", matmul_int8),
        mock.patch.object(peft.tuners.lora.dora, "deepcopy", lambda module: module),
        mock.patch.object(peft.tuners.lora.dora, "dequantize_module_weight", dequantized),
        mock.patch.object(nn.Module, "to", lambda module, *_, **__: module),
        mock.patch.dict(bitsandbytes.functional.name2qmap, clear=True),
        # as `train.patches.add_missing_image_outputs`
        mock.patch.object(MoeCausalLMOutputWithPast, "image_outputs", None, create=True),
    ):
        yield
