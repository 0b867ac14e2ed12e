"""Turns Ctrl-C and SIGTERM into KeyboardInterrupt, at a moment when no transaction is open."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_SECONDS = 0.05
"""Time after which an interrupt that was put off or dropped is raised again."""
PUT_OFF_SECONDS = 5.0
"""Longest time for which a transaction puts an interrupt off; it may wait for a lock meanwhile."""
_TRANSACTIONS = ("vram_search.store", "sqlalchemy", "optuna")
"""Packages whose functions may hold an open transaction."""


class Interrupts:
    """The handler of SIGINT and SIGTERM during a search.

    A KeyboardInterrupt inside a transaction could leave its connection open with SQLite's write
    lock, and the process would then wait for itself. So it is put off until the functions of the
    store, of SQLAlchemy and of Optuna have returned.

    Python drops an exception that a signal raises while an object is finalised
    (`sys.unraisablehook`); it is then raised again. Code that catches everything may drop it, too:
    `raise_dropped` is called where a search that was interrupted never gets.
    """

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._is_ours = False
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._hook = sys.unraisablehook

    def listen(self) -> None:
        """Handles the signals from now on."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        sys.unraisablehook = self._on_unraisable

    def restore(self) -> None:
        """Gives the signals back to their earlier handlers."""
        sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def raise_dropped(self) -> None:
        """Raises an interrupt again that other code has dropped.

        Raises:
            KeyboardInterrupt: a signal came, and the search went on all the same.
        """
        if self._asked_at is not None:
            self._raise()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_ours:
            self._is_ours = False
        elif self._asked_at is not None:  # the second Ctrl-C
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        waited = time.monotonic() - self._asked_at
        if waited < PUT_OFF_SECONDS and _in_transaction(frame):
            self._raise_later()
            return
        self._raise()

    def _raise(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    def _raise_later(self) -> None:
        _call_later(self._interrupt_main)

    def _interrupt_main(self) -> None:
        self._is_ours = True
        _thread.interrupt_main()

    def _on_unraisable(self, dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            self._hook(dropped)
            return
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        self._raise_later()


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def raise_dropped_interrupts() -> None:
    """Lets a Ctrl-C that Python drops while an object is finalised be raised again.

    Without it such a Ctrl-C prints a traceback and the command goes on: the locks of imports are
    finalised a hundred times before a search begins.
    """
    hook = sys.unraisablehook

    def on_unraisable(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            _call_later(_thread.interrupt_main)
        else:
            hook(dropped)

    sys.unraisablehook = on_unraisable


def _call_later(function: Callable[[], None]) -> None:
    timer = threading.Timer(AGAIN_SECONDS, function)
    timer.daemon = True
    timer.start()


def _in_transaction(frame: FrameType | None) -> bool:
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(_TRANSACTIONS):
            return True
        frame = frame.f_back
    return False


@contextmanager
def second_interrupt_quits() -> Iterator[Interrupts]:
    """Lets the first Ctrl-C or SIGTERM raise KeyboardInterrupt, and the second end the process.

    A supervisor such as systemd sends SIGTERM: that ends a search as tidily as Ctrl-C.
    """
    interrupts = Interrupts()
    interrupts.listen()
    try:
        yield interrupts
    finally:
        interrupts.restore()
