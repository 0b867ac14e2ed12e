"""Imports the libraries of a training, and ends their process, with less CPU time."""

from __future__ import annotations

import atexit
import contextlib
import gc
from collections.abc import Iterator
from typing import Any
from unittest import mock

UNUSED = ("datasets", "scipy", "sklearn")
"""Packages that transformers imports wherever they are installed (`trainer.py`,
`loss/loss_for_object_detection.py`, `generation/candidate_generator.py`; 5.17 to 5.23). A training
on our rows uses none of them."""


@contextlib.contextmanager
def light_imports() -> Iterator[None]:
    """Imports torch and bitsandbytes; the block imports what builds on them, and does nothing else.

    For the rest of the process, transformers finds none of the packages in `UNUSED`.
    """
    with uncollected_imports():
        import transformers.utils

        for package in UNUSED:
            mock.patch.object(transformers.utils, f"is_{package}_available", _not_available).start()
        _import_bitsandbytes()
        yield


@contextlib.contextmanager
def uncollected_imports() -> Iterator[None]:
    """Excludes all that the block imports from garbage collections, also from those at exit.

    Modules stay to the end. Looking for garbage among a million objects took a quarter of the CPU
    time of the imports, and more than a second when the process ended.
    """
    gc.disable()
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import_bitsandbytes() -> None:
    """Imports bitsandbytes without the compiler of torch, before peft imports it.

    bitsandbytes passes four functions to `torch.compile` when it is imported
    (`backends/default/ops.py`; 0.49 to 0.50), which loads TorchInductor: 1.3 of the 10 s of CPU
    time that the imports of a training process took. The functions serve devices without kernels of
    their own; CUDA and the CPU have these.
    """
    import torch

    with mock.patch.object(torch, "compile", _not_compiled):
        import bitsandbytes  # noqa: F401


def _not_compiled(function: Any = None, **options: Any) -> Any:
    """Returns the function as it is; also works as a decorator with options."""
    return (lambda decorated: decorated) if function is None else function


def _not_available() -> bool:
    return False
