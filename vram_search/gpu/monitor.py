"""Watches a training process from outside: samples the GPU and keeps peaks per phase."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Literal

from vram_search.gpu.reader import GpuReader, GpuSample

SAMPLES_PER_SECOND = 25
"""A step's peak lasts tens of milliseconds; 20 per second are needed to see it."""

LONGEST_BACK_OFF_SECONDS = 5.0
"""A driver reset takes seconds; asking more often than this only fills the system log."""

JOIN_SECONDS = 5.0
"""A query can hang inside a broken driver; the run's report must not wait for it."""

ProcessBytesSource = Literal["nvml", "device_delta", "none"]


@dataclass(frozen=True)
class PhasePeaks:
    """Readings of one phase. None means not seen or not available."""

    samples: int
    seconds: float
    peak_process_bytes: int | None
    peak_device_bytes: int | None
    mean_utilization_percent: float | None
    peak_temperature_celsius: int | None
    mean_power_watts: float | None
    mean_sm_clock_mhz: float | None
    least_sm_clock_mhz: int | None


@dataclass(frozen=True)
class MonitorReport(PhasePeaks):
    """Readings from start to stop: all phases together, and each phase.

    On Windows (WDDM) NVML has no figure per process: `peak_process_bytes` is then what the device
    gained over its baseline, `process_bytes_source` says "device_delta", and what other programs
    allocated meanwhile is in it.
    """

    achieved_hz: float
    baseline_device_bytes: int | None
    process_bytes_source: ProcessBytesSource
    by_phase: dict[str, PhasePeaks]
    lost_samples: int
    """Number of times that the reader raised an error."""


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self.total += value
            self.count += 1

    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass
class _Tally:
    """Peaks and sums of the samples so far, in constant memory."""

    samples: int = 0
    seconds: float = 0.0
    process_bytes: int | None = None
    device_bytes: int | None = None
    temperature_celsius: int | None = None
    utilization_percent: _Mean = field(default_factory=_Mean)
    power_watts: _Mean = field(default_factory=_Mean)
    sm_clock_mhz: _Mean = field(default_factory=_Mean)
    least_sm_clock_mhz: int | None = None

    def add(self, sample: GpuSample) -> None:
        self.samples += 1
        self.process_bytes = _larger(self.process_bytes, sample.process_bytes)
        self.device_bytes = _larger(self.device_bytes, sample.device_bytes)
        self.temperature_celsius = _larger(self.temperature_celsius, sample.temperature_celsius)
        self.utilization_percent.add(sample.utilization_percent)
        self.power_watts.add(sample.power_watts)
        self.sm_clock_mhz.add(sample.sm_clock_mhz)
        self.least_sm_clock_mhz = _smaller(self.least_sm_clock_mhz, sample.sm_clock_mhz)

    def peaks(self, delta_from_bytes: int | None) -> PhasePeaks:
        """The tally, with process bytes estimated over `delta_from_bytes` where it is given."""
        process_bytes = self.process_bytes
        if delta_from_bytes is not None and self.device_bytes is not None:
            process_bytes = max(0, self.device_bytes - delta_from_bytes)
        return PhasePeaks(
            samples=self.samples,
            seconds=self.seconds,
            peak_process_bytes=process_bytes,
            peak_device_bytes=self.device_bytes,
            mean_utilization_percent=self.utilization_percent.value(),
            peak_temperature_celsius=self.temperature_celsius,
            mean_power_watts=self.power_watts.value(),
            mean_sm_clock_mhz=self.sm_clock_mhz.value(),
            least_sm_clock_mhz=self.least_sm_clock_mhz,
        )


class Monitor:
    """Samples a reader from a daemon thread, from `start` to `stop`; good for one run.

    Example:
        >>> with Monitor(reader) as monitor:        # doctest: +SKIP
        ...     monitor.start(process.pid)
        ...     monitor.mark("train")
        ...     report = monitor.stop()
    """

    def __init__(self, reader: GpuReader, interval_seconds: float = 1 / SAMPLES_PER_SECOND) -> None:
        self._reader = reader
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._total = _Tally()
        self._phases: dict[str, _Tally] = {}
        self._phase = "start"
        self._phase_began = 0.0
        self._latest: GpuSample | None = None
        self._lost_samples = 0
        self._baseline_bytes: int | None = None
        self._report: MonitorReport | None = None

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self.stop()

    def start(self, pid: int, baseline_device_bytes: int | None = None) -> None:
        """Starts to watch `pid`, in the phase "start" until one is marked.

        Args:
            pid: the training process.
            baseline_device_bytes: what the device held without that process. Measured now if not
                given, so give the first report's for a process that already holds a model.
        """
        if self._thread is not None:
            raise RuntimeError("a Monitor watches one run: make a new one")
        self._baseline_bytes = baseline_device_bytes
        if baseline_device_bytes is None:
            first = self._read(None)
            self._baseline_bytes = first.device_bytes if first else None
        with self._lock:
            self._phase_began = time.monotonic()
            self._phases.setdefault(self._phase, _Tally())
        self._thread = threading.Thread(
            target=self._watch, args=(pid,), name="gpu-monitor", daemon=True
        )
        self._thread.start()

    def mark(self, phase: str) -> None:
        """Starts a phase (load, probe, train, eval), or continues one that was marked before.

        A phase shorter than the interval may hold no sample: its peaks are then None.
        """
        with self._lock:
            self._end_phase()
            self._phase = phase
            self._phases.setdefault(phase, _Tally())

    def snapshot(self) -> GpuSample | None:
        """The latest sample, None before the first."""
        return self._latest

    def stop(self) -> MonitorReport:
        """Stops watching and returns the readings; a second call returns the same."""
        if self._report is not None:
            return self._report
        if self._thread is None:
            raise RuntimeError("the Monitor was not started")
        self._stopping.set()
        self._thread.join(JOIN_SECONDS)
        with self._lock:
            self._end_phase()
            self._report = self._make_report()
        return self._report

    def _watch(self, pid: int) -> None:
        back_off = self._interval_seconds
        due = time.monotonic()
        while not self._stopping.is_set():
            with self._lock:
                phase = self._phase  # of the moment the reading begins
            sample = self._read(pid)
            if sample is None:
                back_off = min(back_off * 2, LONGEST_BACK_OFF_SECONDS)
                due = time.monotonic() + back_off
            else:
                back_off = self._interval_seconds
                with self._lock:
                    self._latest = sample
                    self._total.add(sample)
                    self._phases[phase].add(sample)
                # Keep to the beat, but do not catch up on beats a slow reading missed.
                due = max(due + self._interval_seconds, time.monotonic())
            self._stopping.wait(due - time.monotonic())

    def _read(self, pid: int | None) -> GpuSample | None:
        try:
            return self._reader.sample(pid)
        except Exception:  # whatever a driver does must not end the run that is watched
            with self._lock:
                self._lost_samples += 1
            return None

    def _end_phase(self) -> None:
        if self._thread is not None:
            now = time.monotonic()
            self._phases[self._phase].seconds += now - self._phase_began
            self._total.seconds += now - self._phase_began
            self._phase_began = now

    def _make_report(self) -> MonitorReport:
        source: ProcessBytesSource = "none"
        delta_from_bytes = None
        if self._total.process_bytes is not None:
            source = "nvml"
        elif (
            self._reader.device().is_wddm
            and self._baseline_bytes is not None
            and self._total.device_bytes is not None
        ):
            source, delta_from_bytes = "device_delta", self._baseline_bytes
        seconds = self._total.seconds
        return MonitorReport(
            **vars(self._total.peaks(delta_from_bytes)),
            achieved_hz=self._total.samples / seconds if seconds > 0 else 0.0,
            baseline_device_bytes=self._baseline_bytes,
            process_bytes_source=source,
            by_phase={name: tally.peaks(delta_from_bytes) for name, tally in self._phases.items()},
            lost_samples=self._lost_samples,
        )


def _larger(known: int | None, value: int | None) -> int | None:
    return max((v for v in (known, value) if v is not None), default=None)


def _smaller(known: int | None, value: int | None) -> int | None:
    return min((v for v in (known, value) if v is not None), default=None)
