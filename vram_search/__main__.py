"""The program `vram-search`, also as `python -m vram_search`."""

from __future__ import annotations

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


if __name__ == "__main__":
    main()
