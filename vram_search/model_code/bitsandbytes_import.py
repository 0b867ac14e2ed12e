"""Imports bitsandbytes without the compiler of torch, which starts a process earlier."""

from __future__ import annotations

from typing import Any
from unittest import mock


def import_bitsandbytes() -> None:
    """Imports bitsandbytes; call this before peft is imported, which imports it too.

    bitsandbytes passes four functions to `torch.compile` when it is imported
    (`backends/default/ops.py`; 0.49 to 0.50), which loads TorchInductor: 1.3 of the 10 s of CPU
    time that the imports of a training process take. The functions serve devices without kernels of
    their own; CUDA and the CPU have these.
    """
    import torch

    with mock.patch.object(torch, "compile", _not_compiled):
        import bitsandbytes  # noqa: F401


def _not_compiled(function: Any = None, **options: Any) -> Any:
    """Returns the function as it is; also works as a decorator with options."""
    return (lambda decorated: decorated) if function is None else function
