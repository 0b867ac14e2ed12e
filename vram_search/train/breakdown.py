"""Breaks the memory at a training's peak down into parts, using the allocator's history.

The history (`train.allocator_history`) is replayed to the moment of the highest allocated total.
Each block that was live then is named by the owner of its address, by its size, or by the stack
that requested it. The names are those of `estimate.memory.Estimate.parts`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from types import TracebackType
from typing import Any, Self

import torch

from vram_search.spec.allocator_sizes import (
    CUBLAS_WORKSPACE,
    CUBLAS_WORKSPACE_DATACENTER,
    CUBLASLT_WORKSPACE,
)
from vram_search.train.allocator_history import AllocatorHistory, HistoryBlock, Snapshot
from vram_search.train.patches import (
    memory_snapshot,
    record_memory_history,
    stop_memory_history,
)

WORKSPACES = frozenset({CUBLAS_WORKSPACE_DATACENTER, CUBLAS_WORKSPACE, CUBLASLT_WORKSPACE})
DEQUANTISED_EVENTS = 12
"""Number of events within which bitsandbytes frees a dequantised weight after its allocation. Its
stack is also that of its matrix product (`backends/cuda/ops.py`, `_dequant_linear_fallback`)."""
MAX_EVENTS = 200_000
"""Most events kept, at about 1 KiB each; a micro-batch of a 3B model makes a quarter of them."""
PARTS = (
    "base_weights",
    "adapter",
    "optimizer",
    "workspaces",
    "saved_activations",
    "gradients",
    "adapter_copies",
    "layer",
    "recomputed_layer",
    "temporaries",
    "logits",
    "evaluation_logits",
    "other",
)

Owners = dict[tuple[int, int], str]
"""Address and bytes of a storage -> the part that it belongs to."""


def attribute_peak(before: Snapshot, after: Snapshot, owners: Owners) -> dict[str, int]:
    """Returns the bytes of each part at the highest allocated total; they add up to it.

    Args:
        before: the allocator's snapshot when its history began.
        after: the snapshot now; `device_traces[0]` is the history since `before`.
        owners: storages that are known.

    Returns:
        An empty dictionary if the history is incomplete.
    """
    replay = _replay(before, after)
    return _attribute(replay.live_at(replay.peak_event), owners) if replay else {}


def attribute_oom(before: Snapshot, after: Snapshot, owners: Owners) -> dict[str, int]:
    """Returns the bytes of each part at the last refused request; without one, at the end."""
    replay = _replay(before, after)
    if not replay:
        return {}
    last = len(replay.events)
    refused = [index for index, e in enumerate(replay.events) if e["action"] == "oom"]
    return _attribute(replay.live_at(refused[-1] if refused else last), owners)


def _replay(before: Snapshot, after: Snapshot) -> AllocatorHistory | None:
    """Replays the history; returns None if it has lost events."""
    events = after["device_traces"][0]
    if len(events) >= MAX_EVENTS:
        return None
    try:
        replay = AllocatorHistory(before, events)
    except LookupError:  # the release of a block whose allocation is not known
        return None
    return replay if replay.ends_as(after) else None


def _attribute(blocks: list[HistoryBlock], owners: Owners) -> dict[str, int]:
    known = _Known(owners)
    parts: Counter[str] = Counter()
    for block in blocks:
        parts[known.part(block)] += block.size
    if parts["recomputed_layer"]:
        parts["recomputed_layer"] += parts.pop("layer", 0)
    return {name: parts[name] for name in PARTS if parts[name]}


@dataclass(frozen=True)
class _Known:
    """Names a block by its owner, its size or its stack, in this order."""

    owners: Owners

    @cached_property
    def logits(self) -> dict[int, str]:
        """Bytes of the logits in their dtype and in fp32, also those of copies and gradients."""
        named = {size: name for (_, size), name in self.owners.items() if name.endswith("logits")}
        return {2 * size: name for size, name in named.items()} | named

    @cached_property
    def copies(self) -> set[int]:
        """Bytes of autocast's 16-bit copies of the adapter's fp32 weights."""
        return {size // 2 for (_, size), name in self.owners.items() if name == "adapter"}

    def part(self, block: HistoryBlock) -> str:
        if owner := self.owners.get((block.address, block.requested)):
            return owner
        if name := self.logits.get(block.requested):
            return name
        if block.requested in WORKSPACES and block.died is None:
            return "workspaces"
        if not block.frames:  # autograd's own thread has none: gradients of activations
            return "layer" if block.born >= 0 else "other"
        calls = [(frame["filename"].replace("\\", "/"), frame["name"]) for frame in block.frames]
        if block.requested in self.copies and any("peft/tuners/lora" in file for file, _ in calls):
            return "adapter_copies"
        lives = (block.died or sys.maxsize) - block.born
        if "dequant" in calls[0][1] and lives <= DEQUANTISED_EVENTS:
            return "temporaries"
        return _part_by_stack(calls)


def _part_by_stack(calls: list[tuple[str, str]]) -> str:
    """Returns the part by the file and function of each call, innermost call first."""
    files = [file for file, _ in calls]
    if any(name.startswith("dequantize") for _, name in calls):
        return "temporaries"
    if files[0].endswith("train/evaluate.py"):
        return "evaluation_logits"
    if any("cross_entropy" in f"{file}:{name}" for file, name in calls):
        in_evaluation = any(file.endswith("train/evaluate.py") for file in files)
        return "evaluation_logits" if in_evaluation else "logits"
    if any(file.endswith("loss_utils.py") for file in files):
        return "logits"
    if any(_recomputes(file, name) for file, name in calls):
        return "recomputed_layer"
    if files[-1].endswith("torch/autograd/function.py"):
        return "layer"  # the backward pass of a function that is written in Python
    if any("/optim/" in file or file.endswith("clip_grad.py") for file in files):
        return "temporaries"
    return "saved_activations" if any(name == "forward" for _, name in calls) else "other"


def _recomputes(file: str, name: str) -> bool:
    return file.endswith("torch/utils/checkpoint.py") and name in ("unpack_hook", "backward")


class PeakRecorder:
    """Records the parts of the card's memory while a model trains and evaluates.

    Without a GPU it does nothing.

        with PeakRecorder(model, optimizer=lambda: trainer.optimizer) as recorder:
            trainer.train()
        recorder.parts()

    The history is kept from one forward pass of the model to the next and is read only if torch's
    peak rose in between, so its length does not depend on the training's. Call torch's
    `reset_peak_memory_stats` before: a peak below an earlier, higher one is not found.

    Args:
        optimizer: returns the optimizer, or None while it does not exist.
    """

    def __init__(self, model: Any, *, optimizer: Callable[[], Any]) -> None:
        self._model, self._optimizer = model, optimizer
        self._hooks: list[Any] = []
        self._noted: Owners = {}
        self._before: Snapshot = {}
        self._peak = 0
        self._parts: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def parts(self) -> dict[str, int]:
        """Returns the bytes of each part at the peak, which add up to `max_memory_allocated`.

        The dictionary is empty if they do not add up, and without a GPU.
        """
        return dict(self._parts)

    def parts_now(self) -> dict[str, int]:
        """Returns the bytes of each part at the last refused request or, without one, now.

        After a recording that an error ended, they are those at the error.
        """
        if not self._hooks:
            return dict(self._last)
        return attribute_oom(self._before, memory_snapshot(), self._owners())

    def __enter__(self) -> Self:
        if torch.cuda.is_available():
            self._hooks = self._watch()
            self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._hooks:
            return
        self._look()
        if error is not None:
            self._last = self.parts_now()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        stop_memory_history()

    def _watch(self) -> list[Any]:
        """Sets hooks at each forward pass and on tensors that are gone when the pass is over."""
        head = self._model.get_output_embeddings()
        adapter = [p for p in self._model.parameters() if p.requires_grad]
        return [
            self._model.register_forward_pre_hook(self._turn),
            head.register_forward_hook(self._note_logits),
            *(p.register_post_accumulate_grad_hook(self._note_gradient) for p in adapter),
        ]

    def _turn(self, *_: Any) -> None:
        self._look()
        self._begin()

    def _begin(self) -> None:
        self._noted = {}
        self._peak = torch.cuda.max_memory_allocated()
        record_memory_history(MAX_EVENTS)
        self._before = memory_snapshot()

    def _look(self) -> None:
        peak = torch.cuda.max_memory_allocated()
        if peak > self._peak:
            after = memory_snapshot()
            parts = attribute_peak(self._before, after, self._owners())
            self._parts = parts if sum(parts.values()) == peak else {}

    def _note_logits(self, module: Any, arguments: Any, logits: Any) -> None:
        name = "logits" if torch.is_grad_enabled() else "evaluation_logits"
        self._noted |= _storages(name, [logits])

    def _note_gradient(self, parameter: Any) -> None:
        self._noted |= _storages("gradients", [parameter.grad])

    def _owners(self) -> Owners:
        return self._noted | find_owners(self._model, self._optimizer())


def find_owners(model: Any, optimizer: Any) -> Owners:
    """Finds the storages of a model with its adapter, gradients and optimizer states."""
    parameters = list(model.parameters())
    frozen = [p for p in parameters if not p.requires_grad]
    states = optimizer.state.values() if optimizer is not None else ()
    quantised = chain.from_iterable(_quantisation(getattr(p, "quant_state", None)) for p in frozen)
    return {
        **_storages("gradients", (p.grad for p in parameters if p.grad is not None)),
        **_storages("base_weights", chain(frozen, model.buffers(), quantised)),
        **_storages("adapter", (p for p in parameters if p.requires_grad)),
        **_storages("optimizer", chain.from_iterable(state.values() for state in states)),
    }


def _quantisation(state: Any) -> list[Any]:
    """Returns the tensors of bitsandbytes' `QuantState`, including those of the nested one."""
    if state is None:
        return []
    return [state.absmax, state.code, state.offset, *_quantisation(state.state2)]


def _storages(name: str, values: Iterable[Any]) -> Owners:
    storages = (v.untyped_storage() for v in values if isinstance(v, torch.Tensor))
    return {(storage.data_ptr(), storage.nbytes()): name for storage in storages}
