"""Starts the training process, sends it jobs, receives its events and ends it."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from vram_search.errors import first_line
from vram_search.extras import check_training_packages
from vram_search.protocol import STALL_SECONDS, AnyEvent, AnyJob, parse_event
from vram_search.store.retries import HANG, HOST_MEMORY
from vram_search.units import format_duration
from vram_search.worker.host_memory import killed_by_kernel, read_kills

COMMAND = (sys.executable, "-m", "vram_search.train")
DUMP_SECONDS = 5.0
"""Time that a hung process gets, after its patience, to write its stacks into its log."""
KILL_SECONDS = 60.0
"""Time in which a killed process ends; one that waits for a lost GPU never does."""
_LOG_LINES_SHOWN = 15
_OUT_OF_MEMORY = "out of memory"
"""Text in the log if C code ended the process: bitsandbytes' paged states (its macro
CUDA_CHECK_RETURN prints CUDA's text and exits with 1)."""


class TrainingDiedError(Exception):
    """The training process ended or hung without reporting its trial's outcome.

    Args:
        is_out_of_memory: True if its log reports an out-of-memory.
        was_killed: True if a signal ended it.
        cause: HANG, HOST_MEMORY, or empty.
    """

    def __init__(
        self,
        message: str,
        *,
        is_out_of_memory: bool = False,
        was_killed: bool = False,
        cause: str = "",
    ) -> None:
        super().__init__(message)
        self.is_out_of_memory, self.was_killed = is_out_of_memory, was_killed
        self.cause = cause


class TrainingProcess:
    """The process `python -m vram_search.train`; each message is one line.

    Args:
        log: file to which its standard error is appended.
        environment: variables added to ours, for example the allocator's settings.
    """

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        check_training_packages()
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._kills = read_kills()
        with log.open("ab") as errors, _ctrl_c_blocked():
            self._log_start = errors.tell()
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                # Threads that wait must sleep: spinning ones made a CPU training 2.4 times slower
                # on shared cores, and only 1.2 times faster alone (docs/experiments.md).
                env={
                    "OMP_WAIT_POLICY": "PASSIVE",
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    **environment,
                },
            )
        self._events: queue.SimpleQueue[AnyEvent | Exception] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="training-events", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, job: AnyJob) -> None:
        """Sends a job.

        Raises:
            TrainingDiedError: the process has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(job.model_dump_json() + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._death() from None

    def receive(self, patience_seconds: float = STALL_SECONDS) -> AnyEvent:
        """Returns the next event.

        Args:
            patience_seconds: silence after which the process counts as hung.

        Raises:
            TrainingDiedError: the process ended, hung or sent an invalid message.
        """
        try:
            event = self._events.get(timeout=patience_seconds + DUMP_SECONDS)
        except queue.Empty:
            raise TrainingDiedError(
                f"no progress for {format_duration(patience_seconds)}; the stacks of the training "
                f"process are in its log: {self.log}",
                cause=HANG,
            ) from None
        if isinstance(event, Exception):
            raise event
        return event

    def stop(self) -> None:
        """Kills the process and waits for its end, unless a broken driver holds it."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _listen(self) -> None:
        """Puts every event into the queue, and at the end always an error: `receive` waits for
        one."""
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._events.put(parse_event(line))
            end = self._death()
        except ValueError as error:  # a line that is no event, or a stream closed by stop()
            end = TrainingDiedError(f"the training process sent an invalid message: {error}")
        except Exception as error:
            said = f"the training process cannot be read any more: {first_line(error)}"
            end = TrainingDiedError(said)
        self._events.put(end)

    def _death(self) -> TrainingDiedError:
        code, cause = self._process.wait(), ""
        kills = read_kills()
        if code == -9 and killed_by_kernel(self._kills, kills):
            cause = HOST_MEMORY
            how = f"was killed by the kernel, because the main memory {kills.limit_words} ran out"
        elif code < 0:
            how = f"was killed (signal {-code})"
        else:
            how = f"ended with code {code}"
        return TrainingDiedError(
            f"the training process {how}; its log: {self.log}",
            is_out_of_memory=_OUT_OF_MEMORY in self._logged(),
            was_killed=code < 0,
            cause=cause,
        )

    def _logged(self) -> str:
        """Returns the text that this process wrote into its log; empty if the log is gone."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                return log.read().decode("utf-8", errors="replace")
        except OSError:
            return ""


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Blocks SIGINT in this thread for a moment.

    A process that is started inherits that. Ctrl-C reaches the whole process group, and the
    training process could not ignore it before its first line runs. Windows has no such mask.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def log_tail(log: Path) -> str:
    """Returns the last lines of a log for an error message."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_LOG_LINES_SHOWN:])
