"""Takes and restores the state of a training: adapter, optimizer, schedule and random numbers.

Tensors and JSON values are kept apart, so that nothing has to be pickled.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from bitsandbytes.optim.optimizer import Optimizer8bit

_ADAPTER, _OPTIMIZER, _RANDOM = "adapter.", "optimizer.", "random."
_CPU, _GPU = f"{_RANDOM}cpu", f"{_RANDOM}cuda"


@dataclass(frozen=True)
class TrainingState:
    """The state between two optimizer steps.

    Attributes:
        tensors: on the host, by name.
        values: everything else, as JSON keeps it.
    """

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


def take_state(trainer: Any) -> TrainingState:
    """Copies the state of a transformers Trainer between two steps; no memory of the card is used.

    Args:
        trainer: in its training loop, where `optimizer` and `lr_scheduler` exist.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # paged states lie in memory that the card writes to
    tensors = {_ADAPTER + name: _on_host(p) for name, p in _adapter(trainer.model)}
    optimizer = _inner(trainer.optimizer)
    values: dict[str, Any] = {"optimizer": {}, "groups": []}
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor):
                tensors[f"{_OPTIMIZER}{index}.{name}"] = _on_host(value)
            else:
                values["optimizer"][f"{index}.{name}"] = value
    for group in optimizer.param_groups:
        values["groups"].append({k: v for k, v in group.items() if k != "params"})
    values["schedule"] = trainer.lr_scheduler.state_dict()
    if (scaler := trainer.accelerator.scaler) is not None:
        values["scaler"] = scaler.state_dict()
    random_tensors, values["random"] = _take_random_state()
    return TrainingState(tensors | random_tensors, values)


def restore_adapter(model: Any, state: TrainingState) -> None:
    """Copies the adapter's weights into a model that has an adapter of the same shape."""
    with torch.no_grad():
        for name, parameter in _adapter(model):
            parameter.copy_(state.tensors[_ADAPTER + name])


def restore_optimizer(trainer: Any, state: TrainingState) -> None:
    """Restores optimizer, schedule and gradient scaler of a Trainer that has just made them."""
    optimizer = _inner(trainer.optimizer)
    saved: dict[int, dict[str, Any]] = {}
    for key, value in _of_optimizer(state):
        index, _, name = key.partition(".")
        saved.setdefault(int(index), {})[name] = value
    groups = [
        {k: tuple(v) if isinstance(group.get(k), tuple) else v for k, v in kept.items()}
        for group, kept in zip(optimizer.param_groups, state.values["groups"], strict=True)
    ]
    if isinstance(optimizer, Optimizer8bit):
        _restore_bitsandbytes(optimizer, saved)
        for group, kept in zip(optimizer.param_groups, groups, strict=True):
            group.update(kept)
    else:
        known = optimizer.state_dict()["param_groups"]
        merged = [{**new, **kept} for new, kept in zip(known, groups, strict=True)]
        optimizer.load_state_dict({"state": saved, "param_groups": merged})
    trainer.lr_scheduler.load_state_dict(state.values["schedule"])
    if (scaler := trainer.accelerator.scaler) is not None:
        scaler.load_state_dict(state.values["scaler"])


def restore_random_state(state: TrainingState) -> None:
    """Restores the random numbers of Python, NumPy and torch."""
    kept = state.values["random"]
    version, numbers, following = kept["python"]
    random.setstate((version, tuple(numbers), following))
    kind, keys, *rest = kept["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state.tensors[_CPU])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(state.tensors[_GPU])


def _take_random_state() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    values = {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}
    tensors = {_CPU: torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors[_GPU] = torch.cuda.get_rng_state()
    return tensors, values


def _restore_bitsandbytes(optimizer: Any, saved: dict[int, dict[str, Any]]) -> None:
    """Fills states that bitsandbytes makes itself: quantised ones keep their dtype, and paged ones
    stay in memory that the card pages (`optim/optimizer.py`, `get_state_buffer`)."""
    index = 0
    for group_index, group in enumerate(optimizer.param_groups):
        for parameter_index, parameter in enumerate(group["params"]):
            if kept := saved.get(index):
                optimizer.init_state(group, parameter, group_index, parameter_index)
                _fill(optimizer.state[parameter], kept)
            index += 1


def _fill(state: dict[str, Any], kept: dict[str, Any]) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a new paged state is being filled by the card
    for name, value in kept.items():
        if isinstance(state.get(name), torch.Tensor):
            state[name].copy_(value)
        else:
            state[name] = value


def _of_optimizer(state: TrainingState) -> Iterator[tuple[str, Any]]:
    for name, tensor in state.tensors.items():
        if name.startswith(_OPTIMIZER):
            yield name.removeprefix(_OPTIMIZER), tensor
    yield from state.values["optimizer"].items()


def _adapter(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _parameters(optimizer: Any) -> Iterator[torch.nn.Parameter]:
    return (p for group in optimizer.param_groups for p in group["params"])


def _inner(optimizer: Any) -> Any:
    """The optimizer inside accelerate's `AcceleratedOptimizer`."""
    return getattr(optimizer, "optimizer", optimizer)


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of its own: safetensors refuses tensors that share memory, such as bitsandbytes'
    quantisation maps."""
    return tensor.detach().to("cpu", copy=True).contiguous()
