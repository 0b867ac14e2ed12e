"""Replays recorded GPU samples, for tests and for studying a run without its card."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from vram_search.gpu.reader import GpuDevice, GpuFault, GpuReadError, GpuSample


class FakeReader:
    """A `GpuReader` that gives `samples` one after another, and then repeats the last one.

    Args:
        device: what `device()` answers.
        samples: at least one; given unchanged, with the time and process bytes they carry.
        raise_at: which calls of `sample` raise, counted from 0; they use up no sample.
        error: what they raise.

    Example:
        >>> device = GpuDevice(0, "GPU-1", "card", 100, "1", "13.0", None, False, None)
        >>> FakeReader(device, [GpuSample(0.0, 40, 45)]).sample(pid=None).device_bytes
        40
    """

    def __init__(
        self,
        device: GpuDevice,
        samples: Sequence[GpuSample],
        raise_at: Collection[int] = (),
        error: Exception | None = None,
    ) -> None:
        self._device = device
        self._samples = list(samples)
        self._raise_at = frozenset(raise_at)
        self._error = error or GpuReadError("the fake GPU was told to fail")
        self._next = 0
        self._replayed = threading.Event()
        self.calls = 0
        self.faults: list[GpuFault] = []
        """Faults that the card reports next."""

    def device(self) -> GpuDevice:
        return self._device

    def sample(self, pid: int | None) -> GpuSample:
        call, self.calls = self.calls, self.calls + 1
        if call in self._raise_at:
            raise self._error
        if self._next >= len(self._samples):
            # Only now: whoever asks again is done with the last sample.
            self._replayed.set()
            return self._samples[-1]
        self._next += 1
        return self._samples[self._next - 1]

    def fault(self) -> GpuFault | None:
        return self.faults.pop(0) if self.faults else None

    def show(self, sample: GpuSample) -> None:
        """Makes this the sample of all further readings."""
        self._samples, self._next = [sample], 0
        self._replayed.clear()

    def wait_until_replayed(self, timeout_seconds: float) -> bool:
        """Waits until every sample was given and the next was requested; False on timeout."""
        return self._replayed.wait(timeout_seconds)
