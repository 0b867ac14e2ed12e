"""The monitor keeps the peaks of every phase and survives the driver it reads."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vram_search.gpu import FakeReader, GpuDevice, GpuReadError, GpuSample, Monitor, monitor
from vram_search.units import GIB, MIB

LINUX = GpuDevice(0, "GPU-1", "NVIDIA H200", 143_771 * MIB, "580", "13.0", "9.0", False, False)
WINDOWS = GpuDevice(
    0, "GPU-2", "NVIDIA GeForce RTX 5060 Ti", 16_311 * MIB, "580", "13.0", "12.0", True, True
)
PATIENCE_SECONDS = 20.0
DATA = Path(__file__).parent.parent / "fixtures"
PID = 42


def seen(
    device_gib: float,
    process_gib: float | None = None,
    utilization: int | None = None,
    watts: float | None = None,
    celsius: int | None = None,
) -> GpuSample:
    used = int(device_gib * GIB)
    process = None if process_gib is None else int(process_gib * GIB)
    return GpuSample(0.0, used, used, process, utilization, watts, celsius)


def watch(reader: FakeReader) -> Monitor:
    """A monitor that has recorded all the reader's samples."""
    watching = Monitor(reader, interval_seconds=0.001)
    watching.start(PID)
    assert reader.wait_until_replayed(PATIENCE_SECONDS)
    return watching


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def show(reader: FakeReader, watching: Monitor, sample: GpuSample) -> None:
    """Shows a sample and waits until the monitor has it."""
    reader.show(sample)
    wait_for(lambda: watching.snapshot() is sample)


def test_peaks_are_kept_though_the_run_ends_lower() -> None:
    reader = FakeReader(
        LINUX, [seen(1), seen(3, 2, celsius=50), seen(9, 6.5, celsius=71), seen(4, 3, celsius=60)]
    )
    report = watch(reader).stop()
    assert report.peak_process_bytes == 6.5 * GIB
    assert report.peak_device_bytes == 9 * GIB
    assert report.peak_temperature_celsius == 71
    assert report.process_bytes_source == "nvml"
    assert report.lost_samples == 0


def test_the_baseline_is_read_before_watching_begins() -> None:
    report = watch(FakeReader(LINUX, [seen(1), seen(9, 6.5)])).stop()
    assert report.baseline_device_bytes == 1 * GIB


def test_phases_have_peaks_of_their_own_and_continue_when_marked_again() -> None:
    reader = FakeReader(LINUX, [seen(1)])
    with Monitor(reader, interval_seconds=0.001) as watching:
        watching.mark("load")
        watching.start(PID)
        show(reader, watching, seen(5, 4))
        show(reader, watching, seen(3, 2))
        watching.mark("train")
        show(reader, watching, seen(7, 6))
        show(reader, watching, seen(3, 2))
        watching.mark("eval")
        show(reader, watching, seen(9, 8))
        show(reader, watching, seen(2, 1))
        watching.mark("train")
        show(reader, watching, seen(8, 7))
        report = watching.stop()
    peaks = {name: phase.peak_process_bytes for name, phase in report.by_phase.items()}
    assert peaks == {"load": 4 * GIB, "train": 7 * GIB, "eval": 8 * GIB}
    assert report.peak_process_bytes == 8 * GIB
    assert report.samples == sum(phase.samples for phase in report.by_phase.values())
    assert report.seconds == pytest.approx(sum(p.seconds for p in report.by_phase.values()))


def test_on_windows_process_bytes_are_what_the_device_gained() -> None:
    report = watch(FakeReader(WINDOWS, [seen(1.5), seen(2), seen(8), seen(3)])).stop()
    assert report.peak_process_bytes == 6.5 * GIB
    assert report.process_bytes_source == "device_delta"
    assert report.by_phase["start"].peak_process_bytes == 6.5 * GIB


def test_a_resident_process_is_measured_over_the_baseline_before_it() -> None:
    reader = FakeReader(WINDOWS, [seen(5), seen(8)])
    watching = Monitor(reader, interval_seconds=0.001)
    watching.start(PID, baseline_device_bytes=1 * GIB)
    assert reader.wait_until_replayed(PATIENCE_SECONDS)
    assert watching.stop().peak_process_bytes == 7 * GIB


def test_in_a_container_on_linux_no_process_figure_is_made_up() -> None:
    report = watch(FakeReader(LINUX, [seen(1), seen(8)])).stop()
    assert report.peak_process_bytes is None
    assert report.process_bytes_source == "none"
    assert report.peak_device_bytes == 8 * GIB


def test_means_leave_out_what_was_not_measured() -> None:
    samples = [seen(1), seen(1, utilization=100, watts=200.0), seen(1), seen(1)]
    report = watch(FakeReader(LINUX, samples)).stop()
    assert report.mean_utilization_percent == 100
    assert report.mean_power_watts == 200
    assert report.peak_temperature_celsius is None


def test_mean_and_lowest_clock_are_kept() -> None:
    at = [GpuSample(0.0, GIB, GIB, sm_clock_mhz=mhz) for mhz in (1980, 1500, 1800, None)]
    report = watch(FakeReader(LINUX, [seen(1), *at])).stop()
    assert report.mean_sm_clock_mhz == 1760
    assert report.least_sm_clock_mhz == report.by_phase["start"].least_sm_clock_mhz == 1500


def test_a_card_that_measures_nothing_gives_no_means() -> None:
    report = watch(FakeReader(LINUX, [seen(1), seen(1)])).stop()
    assert report.mean_utilization_percent is None
    assert report.mean_power_watts is None
    assert report.mean_sm_clock_mhz is None and report.least_sm_clock_mhz is None


@pytest.mark.parametrize("error", [GpuReadError("GPU is lost"), RuntimeError("a ctypes surprise")])
def test_a_driver_reset_in_mid_run_is_counted_and_survived(error: Exception) -> None:
    reader = FakeReader(LINUX, [seen(1), seen(5, 4), seen(7, 6)], raise_at={2, 3}, error=error)
    report = watch(reader).stop()
    assert report.lost_samples == 2
    assert report.peak_process_bytes == 6 * GIB


def test_a_dead_gpu_is_asked_ever_more_rarely_and_reported_as_unseen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    class Hasty(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return super().wait(0)

    reader = FakeReader(WINDOWS, [seen(1)], raise_at=range(10**6))
    watching = Monitor(reader, interval_seconds=0.04)
    monkeypatch.setattr(watching, "_stopping", Hasty())
    watching.start(PID)
    wait_for(lambda: len(waits) > 1200)  # doubling without a limit would overflow a float here
    report = watching.stop()
    assert waits[0] <= 0.08
    assert max(waits[:4]) > 0.08
    assert 1 < max(waits) <= monitor.LONGEST_BACK_OFF_SECONDS
    assert report.samples == 0
    assert report.peak_device_bytes is None
    assert report.peak_process_bytes is None
    assert report.process_bytes_source == "none"
    assert report.lost_samples >= 1200


def test_memory_does_not_grow_with_the_samples() -> None:
    reader = FakeReader(LINUX, [seen(1, 1)])
    watching = Monitor(reader, interval_seconds=0.0)
    watching.start(PID)
    wait_for(lambda: reader.calls > 2000)
    watching.stop()
    held = [value for value in vars(watching).values() if isinstance(value, list | dict)]
    assert all(len(value) < 10 for value in held)


def test_the_rate_is_samples_over_seconds_and_near_the_interval() -> None:
    reader = FakeReader(LINUX, [seen(1, 1)])
    watching = Monitor(reader, interval_seconds=0.02)
    watching.start(PID)
    wait_for(lambda: reader.calls > 10)
    report = watching.stop()
    assert report.achieved_hz == pytest.approx(report.samples / report.seconds)
    assert 0 < report.achieved_hz < 100


def test_stop_ends_the_thread_and_says_the_same_again() -> None:
    reader = FakeReader(LINUX, [seen(1), seen(2, 1)])
    watching = watch(reader)
    report = watching.stop()
    calls = reader.calls
    time.sleep(0.02)
    assert reader.calls == calls
    assert watching.stop() is report


def test_leaving_the_block_by_an_error_ends_the_thread() -> None:
    reader = FakeReader(LINUX, [seen(1)])
    with pytest.raises(KeyError), Monitor(reader, interval_seconds=0.001) as watching:
        watching.start(PID)
        raise KeyError
    assert "gpu-monitor" not in {thread.name for thread in threading.enumerate()}


def test_the_watched_pid_is_the_one_given() -> None:
    asked: list[int | None] = []

    class Remembering(FakeReader):
        def sample(self, pid: int | None) -> GpuSample:
            asked.append(pid)
            return super().sample(pid)

    watch(Remembering(LINUX, [seen(1), seen(2, 1)])).stop()
    assert asked[0] is None
    assert set(asked[1:]) == {PID}


def test_a_monitor_watches_one_run() -> None:
    watching = watch(FakeReader(LINUX, [seen(1)]))
    watching.stop()
    with pytest.raises(RuntimeError, match="one run"):
        watching.start(PID)


def test_nothing_is_known_before_the_start() -> None:
    watching = Monitor(FakeReader(LINUX, [seen(1)]))
    assert watching.snapshot() is None
    with pytest.raises(RuntimeError, match="not started"):
        watching.stop()


@pytest.mark.parametrize("file", sorted(DATA.glob("nvml_*.json")), ids=lambda file: file.stem)
def test_recorded_run_is_seen_as_the_card_showed_it(file: Path) -> None:
    """What `python -m bench.record.nvml` recorded of a trial, replayed."""
    recorded = json.loads(file.read_text(encoding="utf-8"))
    readings = recorded["samples"]
    samples = [
        GpuSample(**{k: v for k, v in reading.items() if k != "stage"}) for reading in readings
    ]
    reader = FakeReader(GpuDevice(**recorded["device"]), samples[:1])
    watching = Monitor(reader, interval_seconds=0.001)
    watching.start(PID)
    stage = "start"
    for reading, sample in zip(readings, samples, strict=True):
        if reading["stage"] != stage:
            stage = reading["stage"]
            watching.mark(stage)
        show(reader, watching, sample)
        # The first reading after a mark may have begun before it.
        wait_for(lambda calls=reader.calls: reader.calls > calls + 1)  # type: ignore[misc]
    report = watching.stop()

    def most(readings: list[dict[str, Any]]) -> int:
        peaks: list[int] = [reading["process_bytes"] for reading in readings]
        return max(peaks)

    assert report.process_bytes_source == "nvml"
    assert report.peak_process_bytes == most(readings)
    assert report.peak_process_bytes > recorded["reserved_bytes"], "the context comes on top"
    assert report.mean_power_watts is not None and report.mean_power_watts > 50
    assert set(report.by_phase) >= {"probe", "train", "eval"}
    for name in ("probe", "train"):
        of_phase = [r for r in readings if r["stage"] == name]
        peak = report.by_phase[name].peak_process_bytes
        assert peak is not None and most(of_phase) <= peak <= report.peak_process_bytes
