"""The program `vram-search`, also as `python -m vram_search`."""

from __future__ import annotations

import atexit
import gc
import signal
import sys


def main() -> None:
    """Runs the command line. Ctrl-C never prints a traceback.

    While modules are imported and while Python ends, Ctrl-C ends the process at once. In between
    it raises KeyboardInterrupt.
    """
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as by a shell's `&`
    if not is_ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _collect_garbage_rarely()
    from vram_search.cli.interrupts import raise_dropped_interrupts
    from vram_search.cli.main import main as run_command_line
    from vram_search.cli.options import INTERRUPTED

    try:
        raise_dropped_interrupts()
        if not is_ignored:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run_command_line()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        if not is_ignored:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _collect_garbage_rarely() -> None:
    """Imports and queries leave little garbage: Python's search for it took a sixth of the CPU time
    of a short `run`, and 0.1 s or more at its end, where it is left out.
    """
    gc.set_threshold(200_000, 20, 50)
    atexit.register(gc.freeze)


if __name__ == "__main__":
    main()
