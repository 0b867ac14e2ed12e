"""Splits a recorded micro-batch into phases, and its live bytes by their layer.

Every amount of bytes is a polynomial: its last axis has one coefficient for each term.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vram_search.spec.allocator_sizes import MIN_LARGE_REQUEST
from vram_search.trace.recorder import AllocationStream

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Phase:
    """The requests of one phase.

    Attributes:
        name: "start", "f0", "head", "b0", "end".
        own: (requests, terms) live bytes after each request, but for those of `layers`.
        layers: (layers, requests, terms) live bytes of the layers that come before or after.
    """

    name: str
    own: Array
    layers: Array


@dataclass(frozen=True)
class Phases:
    """A micro-batch in phases.

    Attributes:
        kept: (layers, terms) bytes that a layer's forward pass leaves when the last one is through.
        saved: the same where the backward pass of the layers begins.
        left: the same at the end: gradients.
        saved_blocks: for each layer (blocks, terms), its large saved storages.
    """

    kept: Array
    saved: Array
    left: Array
    saved_blocks: tuple[Array, ...]
    phases: tuple[Phase, ...]


def split_phases(stream: AllocationStream, sizes: Array, layers: int) -> Phases:
    """The phases of a stream, in the order in which they ran.

    Args:
        sizes: (requests, terms) of each request, in order.
    """
    table = _Table(stream, sizes, layers)
    places = {name: place for name, place, _ in table.spans}
    count = len(stream.events)
    forward_end = places["head"]
    saved_at = places.get(f"b{layers - 1}", count)
    end = places.get("end", count)
    kept, saved, left = (table.by_layer[:, place - 1] for place in (forward_end, saved_at, end))
    found = []
    for name, start, stop in table.spans:
        requests = np.flatnonzero(table.is_request[start:stop]) + start
        if not len(requests):
            continue
        live = table.live[requests]
        others = table.by_layer[:, requests].copy()
        match = re.fullmatch(r"([fb])(\d+)", name)
        if match:
            number = int(match[2])
            others[:] = 0
            if match[1] == "f":
                others[:number] = kept[:number, None]
            else:
                others[:number] = saved[:number, None]
                others[number + 1 :] = left[number + 1 :, None]
        found.append(Phase(name, live - others.sum(axis=0), others))
    blocks = tuple(table.large_alive(layer, saved_at) for layer in range(layers))
    return Phases(kept, saved, left, blocks, tuple(found))


class _Table:
    """Live bytes after each event, in total and by layer."""

    def __init__(self, stream: AllocationStream, sizes: Array, layers: int) -> None:
        marks = [*stream.marks, ("", len(stream.events))]
        self.spans = [(name, start, stop) for (name, start), (_, stop) in pairwise(marks)]
        count = len(stream.events)
        change = np.zeros((count, sizes.shape[1]))
        self.is_request = np.zeros(count, dtype=bool)
        origin = np.full(count, -1)
        requests: dict[int, tuple[int, int]] = {}
        self._births: dict[int, tuple[int, int, int]] = {}
        self._deaths: dict[int, int] = {}
        self._bytes, self._sizes = [size for size, _ in stream.events if size >= 0], sizes
        number = 0
        for name, start, stop in self.spans:
            match = re.fullmatch(r"[fb](\d+)", name)
            layer = int(match[1]) if match else -1
            for place in range(start, stop):
                size, key = stream.events[place]
                if size >= 0:
                    requests[key] = number, layer
                    self._births[key] = (place, number, layer)
                    change[place], origin[place] = sizes[number], layer
                    self.is_request[place] = True
                    number += 1
                else:
                    freed, origin[place] = requests.pop(key)
                    change[place] = -sizes[freed]
                    self._deaths[key] = place
        self.live = np.cumsum(change, axis=0)
        self.by_layer = np.stack(
            [
                np.cumsum(np.where((origin == layer)[:, None], change, 0), axis=0)
                for layer in range(layers)
            ]
        )

    def large_alive(self, layer: int, place: int) -> Array:
        """Sizes of a layer's large storages that live before the event at `place`."""
        found = [
            number
            for key, (born, number, origin) in self._births.items()
            if origin == layer and born < place <= self._deaths.get(key, place)
            if self._bytes[number] >= MIN_LARGE_REQUEST // 8
        ]
        return self._sizes[found]
