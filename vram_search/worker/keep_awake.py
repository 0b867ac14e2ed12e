"""Keeps the machine awake while a run lasts, where Windows or systemd can do it."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

_SYSTEMD = Path("/run/systemd/system")
"""This folder exists where systemd runs (`man sd_booted`)."""
_COMMAND = (
    "systemd-inhibit",
    "--what=sleep:idle",
    "--who=vram-search",
    "--why=a search is running",
    "--mode=block",
    "cat",
)
_END_SECONDS = 5.0
_CONTINUOUS, _SYSTEM_REQUIRED = 0x80000000, 0x00000001
"""ES_CONTINUOUS and ES_SYSTEM_REQUIRED of SetThreadExecutionState (winbase.h)."""


class Inhibitor(Protocol):
    """Keeps the machine from falling asleep between `hold` and `release`."""

    def hold(self) -> str:
        """Begins; returns the reason if the system refuses, else an empty text."""
        ...

    def release(self) -> None:
        """Ends; the machine may sleep again."""
        ...


class WindowsInhibitor:
    """SetThreadExecutionState; it ends with the process, too.

    Args:
        kernel: kernel32.dll.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def hold(self) -> str:
        before = self._kernel.SetThreadExecutionState(_CONTINUOUS | _SYSTEM_REQUIRED)
        return "" if before else "Windows refuses (SetThreadExecutionState)"

    def release(self) -> None:
        self._kernel.SetThreadExecutionState(_CONTINUOUS)


class SystemdInhibitor:
    """A child process under systemd-inhibit that ends when this process ends, however it ends."""

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    def hold(self) -> str:
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C is not meant for it
            )
        except OSError as error:
            return str(error)
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        # `cat` starts, and answers, once systemd has granted the lock.
        with contextlib.suppress(OSError):
            process.stdin.write("held\n")
            process.stdin.flush()
        if process.stdout.readline():
            return ""
        said = process.stderr.read().strip().splitlines()
        self.release()
        return said[-1] if said else "systemd-inhibit ended"

    def release(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def find_inhibitor() -> Inhibitor | None:
    """Returns the one that works on this system; None if there is none."""
    if sys.platform == "win32":
        return WindowsInhibitor(ctypes.windll.kernel32)
    if _SYSTEMD.is_dir() and shutil.which(_COMMAND[0]) is not None:
        return SystemdInhibitor()
    return None


@contextlib.contextmanager
def kept_awake(
    note: Callable[[str], None], find: Callable[[], Inhibitor | None] = find_inhibitor
) -> Iterator[None]:
    """Keeps the machine awake inside the block, and notes whether that works.

    Without an inhibitor (a container, another system) nothing is done or noted.
    """
    inhibitor = find()
    if inhibitor is None:
        yield
        return
    if refusal := inhibitor.hold():
        note(f"the machine may fall asleep during the run: {refusal}")
    else:
        note("the machine stays awake while the run lasts (--no-keep-awake: it may sleep)")
    try:
        yield
    finally:
        inhibitor.release()
