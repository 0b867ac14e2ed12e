"""The process of a conversion ends with the one that started it."""

from __future__ import annotations

import subprocess
import sys

from vram_search.errors import is_full_disk

WAITS = """
import threading, time
from vram_search.train.convert import _end_with_parent
threading.Thread(target=_end_with_parent, daemon=True).start()
time.sleep(60)
"""


def test_conversion_ends_once_its_parent_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(50) == 1


def test_short_write_of_numpy_is_a_full_disk() -> None:
    assert is_full_disk("2048 requested and 32 written")
    assert not is_full_disk("2048 requested")
