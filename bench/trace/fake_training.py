"""The allocator's requests over a QLoRA training, recorded from the real code without a GPU.

transformers, peft and bitsandbytes run on fake tensors (`torch._subclasses.FakeTensorMode`); a
dispatch mode records when each storage is made and dropped, in forward, loss, backward and the
optimizer's step. The fake device is the CPU, on which a torch built without CUDA can differentiate,
so what differs on CUDA is put in its place: `_attention` and `_scratch_bytes`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from types import MethodType
from typing import Any
from unittest import mock

import bitsandbytes
import torch
import transformers.utils.import_utils
from accelerate.utils.operations import convert_outputs_to_fp32
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from vram_search.estimate.memory.workload import Workload
from vram_search.spec.hyperparameters import OPTIONAL
from vram_search.tools import PEFT

STEPS = 2
"""Optimizer states appear in the first."""
OPTIMIZERS = {
    "adamw_torch_fused": partial(torch.optim.AdamW, fused=True),
    "adamw_8bit": bitsandbytes.optim.AdamW8bit,
}
LLM_INT8_THRESHOLD = 6.0
"""transformers `BitsAndBytesConfig`, default."""

aten, bnb = torch.ops.aten, torch.ops.bitsandbytes


@dataclass
class Stream:
    """Requests and releases, in order; a block's key is the position of its request."""

    events: list[tuple[int, int]] = field(default_factory=list)
    """(bytes, key) where storage is made, (-1, key) where it is dropped."""
    ready: int = 0
    """Events before the training: base model and adapter."""

    def allocate(self, size: int) -> int:
        self.events.append((size, len(self.events)))
        return len(self.events) - 1

    def free(self, key: int) -> None:
        self.events.append((-1, key))


class Recorder(TorchDispatchMode):
    """Writes every storage that an operation makes into a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = Stream()
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        scratch = [self.stream.allocate(size) for size in _scratch_bytes(function, args)]
        result = _run(function, args, kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                self._follow(tensor.untyped_storage())
        for key in scratch:
            self.stream.free(key)
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address in self._alive or not storage.nbytes():
            return
        key = self.stream.allocate(storage.nbytes())

        def dropped(_: weakref.ref[Any]) -> None:
            del self._alive[address]
            self.stream.free(key)

        self._alive[address] = weakref.ref(storage, dropped)


def _run(function: Any, args: Any, kwargs: Any) -> Any:
    """The operation; where it depends on values, as it goes for unpadded texts without outliers."""
    if function is aten._local_scalar_dense.default:
        return True
    if function is bnb.int8_vectorwise_quant.default:
        rows, scales, _ = function(args[0])
        return rows, scales, args[0].new_empty(0, dtype=torch.int64)
    if function is bnb.int8_mixed_scaled_mm.default:
        a, narrow, weight, a_scale, scale, _, *bias = args
        out = bnb.int8_scaled_mm.default(narrow, weight, a_scale, scale, *bias, dtype=a.dtype)
        return out, a.new_empty(0)
    return function(*args, **kwargs)


def _scratch_bytes(function: Any, args: Any) -> list[int]:
    """What CUDA kernels request and release within one operation, so that no dispatch shows it."""
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


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` with CUDA's kernels: flash, or memory-efficient with a mask
    (ATen/native/transformers/attention.cpp)."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, scale=scale
        )[0]
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=dtype).masked_fill_(
            attn_mask.logical_not(), float("-inf")
        )
    batch, heads, length, _ = query.shape
    bias = attn_mask.to(dtype).expand(batch, heads, length, key.shape[2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` as CUDA's fused kernel has it (ATen/native/Dropout.cpp): a copy, and a mask of one
    byte an element. On the CPU the mask has the input's dtype."""
    return aten.native_dropout(input, p, training)[0] if training and p else input


@contextmanager
def _as_on_cuda() -> Iterator[None]:
    """Real branches for fake tensors, and CUDA's kernels on the CPU."""
    is_autocast_enabled = torch.is_autocast_enabled
    with (
        mock.patch.object(torch, "is_autocast_enabled", lambda *_: is_autocast_enabled("cpu")),
        mock.patch.object(transformers.utils.import_utils, "is_fake_tensor", lambda _: False),
        mock.patch.object(nn.functional, "scaled_dot_product_attention", _attention),
        mock.patch.object(nn.functional, "dropout", _dropout),
        mock.patch.object(bitsandbytes, "matmul", _matmul_int8),
        mock.patch.object(nn.Module, "to", lambda module, *_, **__: module),
        mock.patch.dict(bitsandbytes.functional.name2qmap, clear=True),
    ):
        yield


def _matmul_int8(a: Tensor, b: Tensor, bias: Tensor | None, state: Any) -> Tensor:
    state.threshold = LLM_INT8_THRESHOLD
    return bitsandbytes.autograd._functions.MatMul8bitLt.apply(a, b, None, bias, state)


def _quantized(linear: nn.Linear, workload: Workload) -> nn.Linear:
    """bitsandbytes' layer in place of `linear`."""
    sizes = (linear.in_features, linear.out_features, linear.bias is not None)
    weight = linear.weight.detach()
    new: nn.Linear
    if workload.quantization == "int8":
        with unset_fake_temporarily():
            new = bitsandbytes.nn.Linear8bitLt(
                *sizes, has_fp16_weights=False, threshold=LLM_INT8_THRESHOLD, device="meta"
            )
        new.state.CB, new.state.SCB, _ = bitsandbytes.functional.int8_vectorwise_quant(
            weight.to(torch.float16)
        )
        new.weight = nn.Parameter(new.state.CB, requires_grad=False)
        new.weight.CB = None
    else:
        with unset_fake_temporarily():
            new = bitsandbytes.nn.Linear4bit(
                *sizes, compute_dtype=torch.bfloat16, quant_type="nf4", device="meta"
            )
        packed, state = bitsandbytes.functional.quantize_4bit(
            weight, quant_type="nf4", compress_statistics=workload.double_quantization
        )
        new.weight = nn.Parameter(packed, requires_grad=False)
        new.weight.quant_state = state
        new.weight.compress_statistics = workload.double_quantization
        new.weight.quant_type = "nf4"
        new.support_avx512bf16_for_cpu = False
    new.bias = linear.bias
    return new


def _model(config: dict[str, Any], workload: Workload) -> nn.Module:
    """The base model, quantised, with its adapter."""
    settings = AutoConfig.for_model(**config)
    settings.use_cache = False
    model = AutoModelForCausalLM.from_config(
        settings, dtype=torch.bfloat16, attn_implementation=workload.attention
    )
    if workload.quantization != "none":
        for layer in model.model.layers:
            for name, module in list(layer.named_modules()):
                if isinstance(module, nn.Linear):
                    layer.set_submodule(name, _quantized(module, workload))
        model.is_loaded_in_4bit = workload.quantization == "nf4"
        model.is_loaded_in_8bit = workload.quantization == "int8"
    if workload.prepare_for_kbit_training:
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=workload.gradient_checkpointing
        )
    optional = {one.name: getattr(workload, one.name) for one in OPTIONAL if one.changes_bytes}
    lora = LoraConfig(
        r=workload.lora_rank,
        target_modules=list(workload.lora_modules),
        task_type="CAUSAL_LM",
        **PEFT.written(optional),
    )
    model = get_peft_model(model, lora)
    if workload.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    return model.train()


def _as_accelerate_prepares(model: nn.Module) -> None:
    """accelerate `Accelerator.prepare_model`: bf16 autocast, outputs in fp32."""
    forward = torch.autocast("cpu", torch.bfloat16)(type(model).forward)
    model.forward = MethodType(convert_outputs_to_fp32(forward), model)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, workload: Workload) -> None:
    """transformers `Trainer.training_step`, then clipping and the optimizer."""
    for _ in range(workload.gradient_accumulation_steps):
        shape = (workload.per_device_train_batch_size, workload.cutoff_len)
        batch = {
            name: torch.zeros(shape, dtype=torch.int64)
            for name in ("input_ids", "labels", "attention_mask")
        }
        items = (batch["labels"] != -100).sum()
        loss = model(**batch, num_items_in_batch=items)["loss"]
        loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    model.zero_grad()


def record(config: dict[str, Any], workload: Workload) -> Stream:
    """The requests of `STEPS` optimizer steps of AdamW.

    Args:
        config: of the model, as in its `config.json`; `workload.shape` was parsed from it.
    """
    recorder = Recorder()
    with _as_on_cuda(), FakeTensorMode(), recorder:
        model = _model(config, workload)
        _as_accelerate_prepares(model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = OPTIMIZERS[workload.optimizer](trained)
        recorder.stream.ready = len(recorder.stream.events)
        for _ in range(STEPS):
            _step(model, optimizer, workload)
        return Stream(list(recorder.stream.events), recorder.stream.ready)
