"""States and temporary bytes of the real optimizer classes: `python -m bench.optimizers`.

Each optimizer is built as transformers builds it and makes two steps. Those of torch and
transformers run on fake CUDA tensors, so that they take their CUDA path; those of bitsandbytes run
on real CPU tensors, whose states have the same shapes.
"""

from __future__ import annotations

import argparse
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Trainer, TrainingArguments

from vram_search.spec.optimizers import OPTIMIZERS

LORA_SHAPES = ((16, 2048), (5632, 16), (16, 2048), (256, 16), (4, 512))
"""Matrices of adapters below 100,000 elements, where paged states are ordinary tensors; the last
one is below bitsandbytes' `min_8bit_size`."""
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class MeasuredOptimizer:
    """Bytes of an optimizer on its matrices."""

    states: tuple[tuple[int, ...], ...]
    """Per matrix: bytes of each state tensor, tables of 8-bit codes and step counts excluded."""
    temporary_bytes: int
    """The most that a step allocates beside states and gradients; 0 for bitsandbytes, whose kernels
    write in place."""


def measure(name: str, shapes: Sequence[tuple[int, int]] = LORA_SHAPES) -> MeasuredOptimizer:
    """Measures two steps of the optimizer that transformers builds for a name."""
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(), optim=name, use_cpu=True, weight_decay=WEIGHT_DECAY
    )
    make, keywords = Trainer.get_optimizer_cls_and_kwargs(arguments)
    groups = {"weight_decay": WEIGHT_DECAY}
    if OPTIMIZERS[name].library == "bitsandbytes":
        parameters = _parameters(shapes, "cpu")
        optimizer = make([{"params": parameters, **groups}], **keywords)
        optimizer.step()
        return MeasuredOptimizer(_states(optimizer, parameters), 0)
    if OPTIMIZERS[name].library == "torch" and "fused" not in keywords:
        keywords["foreach"] = True  # the default on CUDA, but not on fake tensors
    with FakeTensorMode():
        parameters = _parameters(shapes, "cuda")
        optimizer = make([{"params": parameters, **groups}], **keywords)
        optimizer.step()
        with LiveBytes() as recorder:
            optimizer.step()
        return MeasuredOptimizer(_states(optimizer, parameters), recorder.peak)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations make, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves(args) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == "cuda":
                self._follow(tensor.untyped_storage(), given)
        return result

    def _follow(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._alive or address in given or not size:
            return

        def dropped(_: weakref.ref[Any]) -> None:
            del self._alive[address]
            self.live -= size

        self._alive[address] = weakref.ref(storage, dropped)
        self.live += size
        self.peak = max(self.peak, self.live)


def _parameters(shapes: Sequence[tuple[int, int]], device: str) -> list[torch.nn.Parameter]:
    parameters = [torch.nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    return parameters


def _states(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]
) -> tuple[tuple[int, ...], ...]:
    def sizes(parameter: Tensor) -> tuple[int, ...]:
        state = optimizer.state[parameter]
        kept = (value for name, value in state.items() if name not in ("step", "qmap1", "qmap2"))
        return tuple(v.numel() * v.element_size() for v in kept if isinstance(v, Tensor))

    return tuple(map(sizes, parameters))


def main() -> None:
    """Prints a line for each optimizer."""
    argparse.ArgumentParser(prog="python -m bench.optimizers", description=__doc__).parse_args()
    elements = sum(rows * columns for rows, columns in LORA_SHAPES)
    print(f"{'optim':<22}{'state bytes / element':>23}{'temporary bytes / element':>27}")
    for name in OPTIMIZERS:
        found = measure(name)
        states = sum(map(sum, found.states))
        print(f"{name:<22}{states / elements:>23.3f}{found.temporary_bytes / elements:>27.3f}")


if __name__ == "__main__":
    main()
