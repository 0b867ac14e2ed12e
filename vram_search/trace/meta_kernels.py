"""Runs operations on fake tensors without FakeTensorMode's own checks, which take most of the time.

Written against torch 2.11 to 2.13 (`torch/_subclasses/fake_tensor.py`, `_dispatch_impl`).
With sizes that are known, an operation with a kernel for the meta device needs nothing but that
kernel. All others take FakeTensorMode's way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_impls import op_implementations_checks
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

aten = torch.ops.aten

ALSO_PLAIN = frozenset(
    {
        *(aten.view.default, aten._unsafe_view.default, aten.select.int, aten.slice.Tensor),
        *(aten.copy_.default, aten.slice_scatter.default, aten.index_put_.default),
        *(aten._to_copy.default, aten.zeros_like.default, aten.ones_like.default),
        *(aten.empty_like.default, aten.full_like.default, aten.new_zeros.default),
        *(aten.new_ones.default, aten.new_empty.default, aten.new_full.default),
        aten.new_empty_strided.default,
    }
)
"""Operations with a rule of their own for sizes or devices that are not known here."""
CPU = torch.device("cpu")


class MetaKernels:
    """Calls kernels of the meta device for one FakeTensorMode."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self._is_plain: dict[Any, bool] = {}

    def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operation's result, as FakeTensorMode gives it."""
        plain = self._is_plain.get(function)
        if plain is None:
            plain = self._is_plain[function] = _is_plain(function)
        if not plain or not self._are_ours(args) or not _is_on_cpu(kwargs):
            return function(*args, **kwargs)
        if kwargs.get("device") is not None:
            kwargs = {name: value for name, value in kwargs.items() if name != "device"}
        try:
            with in_kernel_invocation_manager(self.mode):
                result = function(*args, **kwargs)
        except NotImplementedError:
            self._is_plain[function] = False
            return function(*args, **kwargs)
        return self._wrapped(result)

    def _are_ours(self, values: Any) -> bool:
        """True if there is a tensor, and none with a value that is known or that is not fake."""
        found = False
        for value in values:
            if isinstance(value, Tensor):
                if type(value) is not FakeTensor or value.constant is not None:
                    return False
                found = True
            elif isinstance(value, (list, tuple)):
                for one in value:
                    if isinstance(one, Tensor):
                        if type(one) is not FakeTensor or one.constant is not None:
                            return False
                        found = True
        return found

    def _wrapped(self, result: Any) -> Any:
        if isinstance(result, Tensor):
            if type(result) is FakeTensor:
                return result
            return FakeTensor(self.mode, result, CPU)
        if isinstance(result, (tuple, list)):
            return type(result)([self._wrapped(one) for one in result])
        return result


def _is_on_cpu(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is None or device == CPU


def _is_plain(function: Any) -> bool:
    if function.namespace != "aten" or not _has_meta(function):
        return False
    if function in ALSO_PLAIN:
        return True
    checks: list[tuple[Callable[[Any], bool], Any]] = op_implementations_checks
    return not any(applies(function) for applies, _ in checks)


def _has_meta(function: Any) -> bool:
    return bool(torch._C._dispatch_has_computed_kernel_for_dispatch_key(function.name(), "Meta"))
