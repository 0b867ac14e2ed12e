"""Files that are written in one step."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from vram_search.resources import replace_text


def test_earlier_file_stays_if_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "report.html"
    replace_text(file, "first")

    def fill_the_disk(part: Path, text: str, encoding: str) -> int:
        part.write_bytes(text[:2].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        replace_text(file, "second")
    assert file.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_link_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    replace_text(link, "first")
    assert link.is_symlink() and (tmp_path / "file").read_text() == "first"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipe")
def test_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        replace_text(pipe, "first")
        assert os.read(reader, 100) == b"first"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
