"""CUDA's autocast rules for tensors of the CPU.

Under autocast CUDA computes `layer_norm`, `softmax`, `rsqrt` and others in fp32, the CPU does not.
The rules are those of torch `aten/src/ATen/autocast_mode.h` (`AT_FORALL_FP32`,
`AT_FORALL_FP32_SET_OPT_DTYPE`). Operations of lower precision are on both lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

IN_FP32 = (
    *("acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p"),
    *("reciprocal", "rsqrt", "sinh", "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar"),
    *("softplus", "layer_norm", "native_layer_norm", "group_norm", "rms_norm", "logsumexp"),
    *("cosine_similarity", "pdist", "renorm", "frobenius_norm.dim", "nuclear_norm", "dist"),
)
"""Inputs are cast to fp32."""
RESULT_IN_FP32 = (
    *("softmax.int", "log_softmax.int", "cumprod", "cumsum", "sum", "sum.dim_IntList"),
    *("linalg_vector_norm", "linalg_matrix_norm"),
)
"""Called with `dtype=torch.float32` where no dtype is given."""

Kernel = Callable[..., Any]


@contextmanager
def cuda_autocast_rules() -> Iterator[None]:
    """Autocast of the CPU follows CUDA's lists."""
    library = torch.library.Library("aten", "IMPL")
    for name in IN_FP32:
        library.impl(name, _in_fp32(_operation(name)), "AutocastCPU")
    for name in RESULT_IN_FP32:
        library.impl(name, _result_in_fp32(_operation(name)), "AutocastCPU")
    try:
        yield
    finally:
        library._destroy()


def _operation(name: str) -> Kernel:
    packet, _, overload = name.partition(".")
    operation: Kernel = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return operation


def _without_autocast() -> Any:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    return torch._C._ExcludeDispatchKeyGuard(key)


def _is_narrow(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)


def _in_fp32(operation: Kernel) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        def widen(value: Any) -> Any:
            return value.to(torch.float32) if _is_narrow(value) else value

        with _without_autocast():
            return operation(*tree_map(widen, args), **tree_map(widen, kwargs))

    return kernel


def _result_in_fp32(operation: Kernel) -> Kernel:
    def kernel(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        with _without_autocast():
            has_dtype = any(isinstance(value, torch.dtype) for value in args)
            if tensor.is_floating_point() and not has_dtype and kwargs.get("dtype") is None:
                kwargs["dtype"] = torch.float32
            return operation(tensor, *args, **kwargs)

    return kernel
