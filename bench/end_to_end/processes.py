"""Processes in groups of their own, ended with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO


def start(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    stdin: IO[str] | int = subprocess.DEVNULL,
    stdout: int | None = None,
) -> subprocess.Popen[str]:
    """Starts a command as the leader of a process group.

    Args:
        log: file that its standard error is appended to, and its standard output unless given.
        environment: variables added to ours.
    """
    with log.open("ab") as written:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=written if stdout is None else stdout,
            stderr=written,
            text=True,
            encoding="utf-8",
            env={**os.environ, **environment},
            start_new_session=True,
        )


def end(process: subprocess.Popen[str], grace_seconds: float = 0.0) -> None:
    """Ends a process and its group: politely first where it is given time, then by force."""
    if grace_seconds and process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def shared_environment(searches: int) -> dict[str, str]:
    """Variables that give each of the searches the same share of this machine's cores."""
    threads = max(1, (os.cpu_count() or 1) // searches)
    # Threads that wait must sleep, on cores that are shared; the product sets it for itself.
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
