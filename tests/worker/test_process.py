"""A training process that dies says nothing; its exit code and its log do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories import make_trial_job
from vram_search.protocol import Stage
from vram_search.store.retries import HANG, HOST_MEMORY
from vram_search.units import GIB
from vram_search.worker import process
from vram_search.worker.host_memory import OutOfMemoryKills
from vram_search.worker.process import TrainingDiedError, TrainingProcess

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for python")


def death(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, last_words: str) -> TrainingDiedError:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{last_words}' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(process, "COMMAND", (str(python),))
    started = TrainingProcess(tmp_path / "log", {})
    try:
        with pytest.raises(TrainingDiedError, match="ended with code 1") as found:
            started.receive(20)
    finally:
        started.stop()
    return found.value


def test_memory_that_ran_out_in_a_librarys_c_code_is_read_from_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert death(monkeypatch, tmp_path, "Error out of memory at line 380").is_out_of_memory


def test_log_of_an_earlier_process_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("Error out of memory at line 380\n")
    assert not death(monkeypatch, tmp_path, "Segmentation fault").is_out_of_memory


def test_death_is_reported_if_the_log_was_moved_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The supervisor would wait for ever: the thread that reads the events would have ended."""
    monkeypatch.setattr(process, "COMMAND", ("/bin/sleep", "60"))
    started = TrainingProcess(tmp_path / "files" / "log", {})
    (tmp_path / "files").rename(tmp_path / "elsewhere")
    os.kill(started.pid, signal.SIGKILL)
    with pytest.raises(TrainingDiedError, match="was killed"):
        started.receive(20)
    started.stop()


def test_fault_while_events_are_read_reaches_the_supervisor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "COMMAND", ("/bin/sh", "-c", "echo an event"))
    monkeypatch.setattr(process, "parse_event", {}.__getitem__)
    started = TrainingProcess(tmp_path / "log", {})
    with pytest.raises(TrainingDiedError, match="cannot be read any more: 'an event"):
        started.receive(20)
    started.stop()


def kill_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TrainingDiedError:
    monkeypatch.setattr(process, "COMMAND", ("/bin/sh", "-c", "kill -9 $$"))
    started = TrainingProcess(tmp_path / "log", {})
    try:
        with pytest.raises(TrainingDiedError) as found:
            started.receive(20)
    finally:
        started.stop()
    return found.value


def test_kernels_kill_for_lack_of_main_memory_is_told_from_any_other_kill(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counts = iter([3, 3, 3, 4])
    read = lambda: OutOfMemoryKills(next(counts), 16 * GIB)  # noqa: E731
    monkeypatch.setattr(process, "read_kills", read)
    killed = kill_itself(monkeypatch, tmp_path)
    assert killed.was_killed and killed.cause == "" and "signal 9" in str(killed)
    by_kernel = kill_itself(monkeypatch, tmp_path)
    assert by_kernel.was_killed and by_kernel.cause == HOST_MEMORY
    assert "the main memory of this container or session (16.00 GiB) ran out" in str(by_kernel)


HANGING = """
import time
from vram_search.protocol import Stage
from vram_search.train.channel import Channel
channel = Channel()
job = channel.receive()
channel.send(Stage(stage="probe"))
def hang_here():
    time.sleep(60)
hang_here()
"""


def test_a_process_without_progress_writes_its_stacks_and_counts_as_hung(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", HANGING))
    started = TrainingProcess(tmp_path / "log", {})
    try:
        started.send(make_trial_job(patience_seconds=0.5))
        assert isinstance(started.receive(60), Stage)
        with pytest.raises(TrainingDiedError, match=r"no progress for 0\.5") as found:
            started.receive(0.5)
    finally:
        started.stop()
    assert found.value.cause == HANG
    log = (tmp_path / "log").read_text()
    assert "Timeout" in log and "hang_here" in log


ORPHAN = """
import os
from vram_search.protocol import Stage
from vram_search.train.channel import Channel
channel = Channel()
for _ in range(20):
    channel.send(Stage(stage="probe"))
print("it went on")
"""


def test_a_process_without_a_supervisor_ends_without_a_traceback() -> None:
    """The kernel closes a dead supervisor's pipes one by one, the pipe of the events first."""
    unread, events = os.pipe()
    started = subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdin=subprocess.PIPE,
        stdout=events,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(events)
    os.close(unread)
    assert started.stdin is not None and started.stderr is not None
    assert started.wait(60) == 0
    assert started.stderr.read() == ""
    started.stdin.close()
    started.stderr.close()


def test_ctrl_c_reaches_no_training_process_that_is_still_starting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It reaches the whole process group, and a shell ignores nothing by itself."""
    monkeypatch.setattr(process, "COMMAND", ("/bin/sh", "-c", "kill -2 $$; echo alive >&2"))
    started = TrainingProcess(tmp_path / "log", {})
    try:
        with pytest.raises(TrainingDiedError, match="ended with code 0"):
            started.receive(20)
    finally:
        started.stop()
    assert (tmp_path / "log").read_text() == "alive\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
