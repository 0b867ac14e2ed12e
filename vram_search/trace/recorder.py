"""Records when each storage is made and dropped while real code runs on fake tensors."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vram_search.spec.allocator_sizes import block_size
from vram_search.trace.cuda_kernels import run_operation, scratch_bytes
from vram_search.trace.meta_kernels import MetaKernels
from vram_search.trace.routing import ASKED, Routing

aten, DEVICE = torch.ops.aten, torch.ops.prim.device.default
AT_ONCE = 6
"""Events within which the summands of a sum in place are released after it."""


@dataclass
class AllocationStream:
    """Requests and releases, in order; a block's key is the position of its request."""

    events: list[tuple[int, int]] = field(default_factory=list)
    """(bytes, key) where storage is made, (-1, key) where it is dropped."""
    marks: list[tuple[str, int]] = field(default_factory=list)
    """Names of phases, with the position of the first event of each."""
    ready: int = 0
    """Events before the training: base model and adapter."""
    sums: list[tuple[int, int, int]] = field(default_factory=list)
    """Keys of gradients that autograd added up in fp32: sum, first and second summand."""

    def allocate(self, size: int) -> int:
        """Appends a request; returns its key."""
        self.events.append((size, len(self.events)))
        return len(self.events) - 1

    def free(self, key: int) -> None:
        """Appends a release."""
        self.events.append((-1, key))

    def mark(self, name: str) -> None:
        """A new phase begins."""
        self.marks.append((name, len(self.events)))

    @property
    def peak(self) -> int:
        """Largest bytes of blocks that live at once."""
        live = peak = 0
        sizes: dict[int, int] = {}
        for size, key in self.events:
            if size >= 0:
                sizes[key] = block_size(size)
                live += sizes[key]
                peak = max(peak, live)
            else:
                live -= sizes.pop(key)
        return peak


class Recorder(TorchDispatchMode):
    """Writes every storage that an operation makes into a stream."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and skipping takes time at every operation

    def __init__(self, mode: FakeTensorMode, *, padded: bool = False) -> None:
        super().__init__()
        self.stream = AllocationStream()
        self.padded = padded
        self.routing = Routing()
        self._kernels = MetaKernels(mode)
        self._keys: dict[int, int] = {}
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is DEVICE:  # asked for at every operation
            return args[0].fake_device
        stream = self.stream
        scratch = [stream.allocate(size) for size in scratch_bytes(function, args)]
        result = self._result(function, args, kwargs or {})
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, FakeTensor):
                self._follow(tensor.untyped_storage())
        for key in scratch:
            stream.free(key)
        if function is aten.add.Tensor and torch._C._current_graph_task_id() != -1:
            self._note_sum(result, *args[:2])
        return result

    def _result(self, function: Any, args: Any, kwargs: Any) -> Any:
        if function not in ASKED:
            return run_operation(self._kernels, function, args, kwargs, padded=self.padded)
        result = self.routing.answer(function, args)
        if result is None:
            result = run_operation(self._kernels, function, args, kwargs, padded=self.padded)
        self.routing.note(function, args, result)
        return result

    def restart(self) -> AllocationStream:
        """Starts a new stream, of which storages that exist are no part; returns it."""
        self._keys.clear()
        self.stream = AllocationStream()
        return self.stream

    def _note_sum(self, total: Tensor, first: Any, second: Any) -> None:
        summands = (first, second)
        if total.dtype != torch.float32 or not all(isinstance(t, Tensor) for t in summands):
            return
        if first.shape != second.shape or first.dtype != second.dtype:
            return
        storages = [t.untyped_storage()._cdata for t in (total, *summands)]
        if all(storage in self._keys for storage in storages):  # all of this stream
            key, one, other = (self._keys[storage] for storage in storages)
            self.stream.sums.append((key, one, other))

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address in self._alive or not storage.nbytes():
            return
        key = self.stream.allocate(storage.nbytes())
        self._keys[address] = key

        stream = self.stream

        def dropped(_: weakref.ref[Any]) -> None:
            del self._alive[address]
            self._keys.pop(address, None)
            if stream is self.stream:
                stream.free(key)

        self._alive[address] = weakref.ref(storage, dropped)


def with_sums_in_place(stream: AllocationStream) -> AllocationStream:
    """The stream as on a card, where autograd adds fp32 gradients into the first of them.

    On fake tensors it never does, because Python refers to them too (torch
    `csrc/autograd/input_buffer.cpp`, `can_accumulate_inplace`).
    """
    released = {key: place for place, (size, key) in enumerate(stream.events) if size < 0}
    renamed: dict[int, int] = {}
    dropped: set[int] = set()
    for total, first, second in stream.sums:
        if first == second:
            continue
        places = [released.get(key, -1) for key in (first, second)]
        if all(total < place <= total + AT_ONCE for place in places):
            dropped |= {total, places[0]}
            renamed[total] = renamed.get(first, first)
    events = [
        (size, renamed.get(key, key))
        for place, (size, key) in enumerate(stream.events)
        if place not in dropped
    ]
    gone = sorted(dropped)
    marks = [(name, place - sum(g < place for g in gone)) for name, place in stream.marks]
    ready = stream.ready - sum(g < stream.ready for g in gone)
    return AllocationStream(events, marks, ready)
