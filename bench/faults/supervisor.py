"""Starts `vram-search run` as a process that is forked, which saves its imports, and kills it.

The parent has imported everything that a run needs, so a supervisor starts in 10 ms. It is a
process like any other: it has its own process group, and its training process is its child.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_search.__main__ import main
from vram_search.worker import process

HANG_SECONDS = 120.0
"""A process that does not end in this time, although it must, counts as hung."""
STACKS_SECONDS = 1.0
"""Time that a hung process gets to write its stacks."""
Hook = Callable[[], None]
_SENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class Supervisor:
    """A running `vram-search run`."""

    pid: int
    code: int | None = None
    """Exit code; the negative signal that ended it."""

    def wait(self, seconds: float = HANG_SECONDS) -> bool:
        """Waits for its end; returns False if it did not end in time.

        Then its stacks are in its output. A dump while it works can crash it: it reads the frames
        of running threads without Python's lock (github.com/python/cpython/issues/116008).
        """
        deadline = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                if seconds:
                    self.send(signal.SIGUSR1)
                    time.sleep(STACKS_SECONDS)
                return False
            else:
                time.sleep(0.005)
        return True

    def is_running(self) -> bool:
        """True until it has ended."""
        return not self.wait(0)

    def send(self, number: int) -> None:
        """Sends it a signal, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def children(self) -> list[int]:
        """Its training processes."""
        try:
            threads = list(Path(f"/proc/{self.pid}/task").iterdir())
            text = " ".join((thread / "children").read_text() for thread in threads)
        except OSError:
            return []
        return [int(word) for word in text.split()]

    def kill_group(self) -> None:
        """Kills it and its training processes in one moment."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def run_here(
    arguments: Sequence[object], trainer: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Runs a command in this process: everything that it imports is there for all that are forked.

    It returns when its threads have ended, since a fork copies none of them.
    """
    whole = dict(os.environ), process.COMMAND, sys.argv
    handlers = {number: signal.getsignal(number) for number in _SENT}
    hook = sys.unraisablehook
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        _command_line([str(word) for word in arguments], trainer, environment, lambda: None)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook
    os.environ.clear()
    os.environ.update(whole[0])
    process.COMMAND, sys.argv = whole[1], whole[2]
    while threading.active_count() > 1:
        time.sleep(0.05)
    gc.freeze()


def start(
    arguments: Sequence[object],
    output: Path,
    trainer: Sequence[str] | None,
    environment: Mapping[str, str],
    hook: Callable[[], None] = lambda: None,
) -> Supervisor:
    """Forks a process that runs `vram-search ARGUMENTS`.

    Args:
        output: file to which its output is appended.
        trainer: command of the training process; None for the real one.
        hook: called in the new process before the command.
    """
    sys.stdout.flush()
    # Until the command runs, the new process is ours: a SIGINT for it waits.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        return Supervisor(pid)
    code = 70
    try:
        os.setpgid(0, 0)
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        faulthandler.register(signal.SIGUSR1, file=2)  # `wait` asks for the stacks
        code = _command_line([str(word) for word in arguments], trainer, environment, hook)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _command_line(
    arguments: list[str],
    trainer: Sequence[str] | None,
    environment: Mapping[str, str],
    hook: Callable[[], None],
) -> int:
    random.seed()
    os.environ.update(environment)
    if trainer is not None:
        process.COMMAND = tuple(trainer)  # type: ignore[assignment]
    sys.argv = ["vram-search", *arguments]
    hook()
    for number in _SENT:  # as a process that a terminal starts; `nohup` ignores SIGHUP
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def supervisor_boundaries() -> dict[str, tuple[Any, str]]:
    """Functions of the supervisor whose beginning and end are boundaries: owner and name."""
    from vram_search.search.study import Search
    from vram_search.store.store import Store
    from vram_search.worker import resident, run

    return {
        "open study": (run, "open_study"),
        "reconcile": (run, "reconcile"),
        "learn or enqueue": (Search, "enqueue_initial_points"),
        "start trainer": (resident, "TrainingProcess"),
        "ask": (Search, "ask"),
        "record trial": (Store, "start_trial"),
        "record plan": (Store, "record_plan"),
        "record stage": (Store, "record_stage"),
        "rung": (Search, "should_prune"),
        "record result": (Store, "finish_trial"),
        "report to Optuna": (Search, "tell"),
        "delete adapter": (Store, "delete_adapter"),
    }


def kill_at(boundary: str, *, after: bool, call: int) -> Hook:
    """Returns a hook that kills the supervisor at the beginning or end of a function.

    Args:
        call: the call of the function that is meant, from 1.
    """
    owner, name = supervisor_boundaries()[boundary]

    def hook() -> None:
        whole, calls = getattr(owner, name), 0

        def replaced(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = whole(*arguments, **named)
            if calls == call and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, replaced)

    return hook
