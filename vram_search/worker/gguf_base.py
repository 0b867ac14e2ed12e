"""Converts a base model that is a GGUF file, once, into a folder of the cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from vram_search.errors import InputError, is_full_disk
from vram_search.extras import check_training_packages
from vram_search.resources import cache_folder
from vram_search.units import MIB


def converted_gguf(gguf: Path, note: Callable[[str], None]) -> Path:
    """Returns the cached folder of a GGUF file, which is converted at first use.

    Args:
        note: called with a sentence before a conversion, which takes about 30 s.

    Raises:
        InputError: the file cannot be read or converted, or a package for it is missing.
    """
    stat = gguf.stat()
    content = f"{gguf.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}".encode()
    with gguf.open("rb") as stream:
        key = hashlib.sha256(content + stream.read(MIB)).hexdigest()
    folder = cache_folder() / "models" / f"{gguf.stem}-{key[:8]}"
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_folder() / "conversions.lock"):
        for leftover in folder.parent.glob("*.part"):  # of a conversion that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        if not (folder / "config.json").is_file():  # another process may have been faster
            check_training_packages()
            note(f"converting {gguf.name} to safetensors, once (about 30 s)")
            _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """Converts a GGUF file in a process of its own, which loads torch.

    Raises:
        InputError: the file cannot be converted.
    """
    done = subprocess.run(
        [sys.executable, "-m", "vram_search.train.gguf", str(gguf), str(folder)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        for leftover in folder.parent.glob(f"{folder.name}.*.part"):
            shutil.rmtree(leftover, ignore_errors=True)
        last = (done.stderr.strip().splitlines()[-1:] or ["no message"])[0]
        raise InputError(
            f"{gguf}: could not be converted: {last}",
            _conversion_remedy(done.returncode, last, folder.parent),
        )


def _conversion_remedy(code: int, message: str, cache: Path) -> str:
    """Returns the remedy for a failed conversion, by its cause."""
    said = message.lower()
    if is_full_disk(said):
        return f"free some space on the disk of {cache}, or move it with $VRAM_SEARCH_HOME"
    if "permission denied" in said or "read-only" in said:
        return f"allow writing to {cache}, or move it with $VRAM_SEARCH_HOME"
    if code == -9 or "memory" in said:
        return "the conversion needs the model's size in bf16 as free main memory"
    if code < 0:
        return "the conversion was killed: run again"
    return "is it a GGUF file of a supported architecture? A folder of safetensors works too"
