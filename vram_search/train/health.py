"""Checks after each trial that the base's weights are unchanged and that no memory has leaked."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch

from vram_search.protocol import LEAK_BYTES, Finished
from vram_search.train.device import device
from vram_search.units import format_bytes

SAMPLE = 16
"""Number of parameters compared bit by bit, evenly spaced from the first to the last."""
CHUNK = 2**20
"""Elements summed at a time: 8 MiB of int64 in addition to a base that may fill the card."""
MOST_SURVIVORS = 5


class Health:
    """The base model as it was loaded, to compare with after each trial.

    Args:
        base: the model that `load_base` returned, without an adapter.
    """

    def __init__(self, base: Any) -> None:
        self.base = base
        self.checksums = checksums(base)
        self.known = set(live_storages())

    def examine(self, finished: Finished) -> Finished:
        """Returns the trial's end with the faults of the process added.

        After an out-of-memory nothing is checked because the process ends.
        """
        if finished.outcome == "oom":
            return finished
        leaks = finished.leaked_bytes > LEAK_BYTES
        found = {
            "survivors": survivors(self.known) if leaks else (),
            "base_intact": checksums(self.base) == self.checksums,
        }
        return finished.model_copy(update=found)


def checksums(base: Any) -> list[int]:
    """Returns one exact checksum per tensor of the sample; the host waits for the device once.

    A changed bit changes its tensor's checksum.
    """
    named = list(base.named_parameters())
    step = max(1, len(named) - 1) / (SAMPLE - 1)
    chosen = sorted({min(round(i * step), len(named) - 1) for i in range(SAMPLE)})
    tensors = [tensor for i in chosen for tensor in parts_of(named[i][1])]
    return torch.stack([_checksum(tensor) for tensor in tensors]).tolist()


def parts_of(parameter: Any) -> Iterator[torch.Tensor]:
    """Yields a parameter's data and, if quantised, its scales and the scales' scales
    (bitsandbytes `functional.py`, `QuantState`)."""
    yield parameter.data
    state = getattr(parameter, "quant_state", None)
    while state is not None:
        yield state.absmax
        state = state.state2


def _checksum(tensor: torch.Tensor) -> torch.Tensor:
    """Sums the tensor's bits as integers, each times its place, modulo 2**64."""
    bits = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if bits.numel() % 4 == 0 and bits.storage_offset() % 4 == 0:
        bits = bits.view(torch.int32)
    places = torch.arange(1, CHUNK + 1, device=bits.device)
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for chunk in bits.split(CHUNK):
        # 31 is odd, so no earlier difference is lost.
        total = total * 31 + (places[: len(chunk)] * chunk).sum()
    return total


def live_storages() -> dict[int, torch.Tensor]:
    """Returns a tensor by address for each storage on the device that Python can reach.

    Objects that are excluded from collections are left out: imports put no tensor on a GPU.
    """
    tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    found = ((_address(tensor), tensor) for tensor in tensors)
    return {address: tensor for address, tensor in found if address is not None}


def _address(tensor: torch.Tensor) -> int | None:
    """Returns where the tensor's bytes are, or None for a tensor without bytes on the device.

    The storage of a fake tensor is on `meta`, whatever its device. Sparse and MKL-DNN tensors and
    wrappers of other tensors have no storage of their own.
    """
    try:
        storage = tensor.untyped_storage()
        return storage.data_ptr() if storage.device.type == device().type else None
    except RuntimeError:
        return None


def survivors(known: set[int]) -> tuple[str, ...]:
    """Describes the largest new tensors: shape, bytes, and the types of the objects that refer to
    them.

    Args:
        known: addresses of the storages that existed before.
    """
    gc.unfreeze()  # objects that are excluded from collections may hold them; the process ends soon
    new = [tensor for address, tensor in live_storages().items() if address not in known]
    new.sort(key=lambda tensor: -tensor.untyped_storage().nbytes())
    del new[MOST_SURVIVORS:]
    return tuple(f"{_described(tensor)}, held by {_holders(tensor, new)}" for tensor in new)


def _described(tensor: torch.Tensor) -> str:
    dtype, size = str(tensor.dtype).removeprefix("torch."), tensor.untyped_storage().nbytes()
    return f"{dtype} {tuple(tensor.shape)}, {format_bytes(size)}"


def _holders(tensor: torch.Tensor, search: list[torch.Tensor]) -> str:
    """Returns the type names of the objects that refer to a tensor, without this search itself.

    For a dictionary (a module's `_parameters`, an object's `__dict__`) its owners are named.
    """
    found: set[str] = set()
    for referrer in gc.get_referrers(tensor):
        if isinstance(referrer, dict):
            found |= {type(owner).__name__ for owner in gc.get_referrers(referrer)}
        elif referrer is not search:
            found.add(type(referrer).__name__)
    return ", ".join(sorted(found - {"frame", "generator", "list_iterator"})) or "C++ alone"
