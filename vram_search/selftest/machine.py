"""Checks of the machine besides its GPU: clocks, disk, sleep."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from vram_search.resources import LOW_DISK_BYTES
from vram_search.selftest.check import Check, failed, not_possible, passed
from vram_search.store import open_store, sqlite_url
from vram_search.units import MIB, format_bytes
from vram_search.worker.keep_awake import Inhibitor, find_inhibitor

WAIT_SECONDS = 0.5
CLOCK_TOLERANCE_SECONDS = 0.25
"""Largest difference of two clocks after the wait; a busy machine delays a reading by less."""
COARSEST_TICK_SECONDS = 0.02
"""Windows ticks every 15.6 ms; a step time needs no finer clock."""
EARLIEST_YEAR = 2026
"""This release is of that year, so a clock that shows an earlier one is wrong."""
WRITTEN_BYTES = 64 * MIB
FILE_NAME = "Prüfung 試験.bin"
"""A name that needs Unicode, with a space, as a user's folder may have."""

WallClock = Callable[[], float]


def check_clock(wall: WallClock = time.time, wait_seconds: float = WAIT_SECONDS) -> Check:
    """Compares the system time with the clock that measures steps.

    Args:
        wall: seconds since 1970.
    """
    tick = time.get_clock_info("monotonic").resolution
    started, wall_started = time.monotonic(), wall()
    time.sleep(wait_seconds)
    difference = (wall() - wall_started) - (time.monotonic() - started)
    figures = {"tick_seconds": tick, "difference_seconds": difference}
    year = datetime.fromtimestamp(wall(), UTC).year
    if year < EARLIEST_YEAR:
        return failed(
            "clock",
            f"the system time is wrong: it shows the year {year}",
            "set the time; downloads and the history of runs need it",
            **figures,
        )
    if tick > COARSEST_TICK_SECONDS or abs(difference) > CLOCK_TOLERANCE_SECONDS:
        return failed(
            "clock",
            f"the system time moved {difference:+.3f} s against the clock that measures steps "
            f"(tick {tick:.2g} s)",
            "wait until the time is synchronised, then repeat the test",
            **figures,
        )
    return passed("clock", f"the clocks agree; one tick is {tick:.2g} s", **figures)


def check_disk(folder: Path) -> Check:
    """Writes, reads, replaces and removes files in the data folder, and opens a database there.

    Raises:
        OSError: the folder cannot be written.
        VramSearchError: the database cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="selftest-") as scratch:
        file = Path(scratch) / FILE_NAME
        content = os.urandom(WRITTEN_BYTES)
        started = time.monotonic()
        with file.open("wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        seconds = time.monotonic() - started
        is_equal = _digest(file.read_bytes()) == _digest(content)
        file.with_name("old").write_bytes(b"old")
        file.replace(file.with_name("old"))
        with closing(open_store(sqlite_url(Path(scratch) / "test.db"), create=True)) as store:
            store.studies()
    free = shutil.disk_usage(folder).free
    figures = {"free_bytes": free, "written_bytes_per_second": round(WRITTEN_BYTES / seconds)}
    if not is_equal:
        return failed(
            "disk",
            "a file was read back with other bytes than were written",
            "check the disk before anything is trained on it",
            **figures,
        )
    if free < LOW_DISK_BYTES:
        return failed(
            "disk",
            f"only {format_bytes(free)} are free where the adapters are kept",
            "free some space, or name another folder in VRAM_SEARCH_HOME",
            **figures,
        )
    return passed(
        "disk",
        f"files and a database work in the data folder: {format_bytes(free)} free, "
        f"{WRITTEN_BYTES / MIB / seconds:.0f} MiB/s written",
        **figures,
    )


def check_keep_awake(find: Callable[[], Inhibitor | None] = find_inhibitor) -> Check:
    """Asks the system for a moment not to fall asleep."""
    inhibitor = find()
    if inhibitor is None:
        return not_possible(
            "keep_awake", "neither Windows nor systemd is here to keep the machine awake"
        )
    refusal = inhibitor.hold()
    inhibitor.release()
    if refusal:
        return failed(
            "keep_awake",
            f"the machine may fall asleep during a run: {refusal}",
            "switch sleep off in the system's settings before a night",
        )
    return passed("keep_awake", "a run keeps the machine awake")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
