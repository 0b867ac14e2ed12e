"""The process of a conversion ends with the one that started it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vram_search.errors import is_full_disk
from vram_search.protocol import MergeJob, OllamaJob
from vram_search.train.convert import _place

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


def test_full_disk_is_named_by_its_folder(tmp_path: Path) -> None:
    merge = MergeJob.model_construct(target=str(tmp_path / ".m.part"))
    ollama = OllamaJob.model_construct(merge=merge)
    assert _place(merge) == _place(ollama) == tmp_path


def test_short_write_of_numpy_is_a_full_disk() -> None:
    assert is_full_disk("2048 requested and 32 written")
    assert not is_full_disk("2048 requested")
