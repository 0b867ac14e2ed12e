"""Fault 11: a GGUF file whose conversion fails leaves nothing behind and names the right remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vram_search.errors import InputError
from vram_search.resources import cache_folder
from vram_search.worker import gguf_base

CONVERSION = """#!{python}
import os, pathlib, sys
folder = pathlib.Path(sys.argv[4])
part = folder.with_name(f"{{folder.name}}.{{os.getpid()}}.part")
part.mkdir(parents=True)
(part / "model.safetensors").write_bytes(b"half")
{end}
"""
ENDS = {
    "full disk": ('open("/dev/full", "w").write("x" * 10**6)', "free some space on the disk of"),
    "killed": ("os.kill(os.getpid(), 15)", "the conversion was killed: run again"),
    "out of memory": ("raise MemoryError('out of memory')", "free main memory"),
    "not a model": ("raise ValueError('no such architecture')", "is it a GGUF file of a supported"),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("cause", ENDS)
def test_failed_conversion_leaves_nothing_and_its_remedy_follows_the_cause(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    end, remedy = ENDS[cause]
    command = tmp_path / "python"
    command.write_text(CONVERSION.format(python=sys.executable, end=end))
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    for _ in range(2):
        with pytest.raises(InputError) as refused:
            gguf_base.converted_gguf(model, lambda text: None)
        assert remedy in refused.value.remedy
        assert list((cache_folder() / "models").iterdir()) == []
