"""Databases that may be read and not written, or not even reached."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.conftest import Start
from vram_search.store import open_store, sqlite_url

# Root may write anywhere, so the process becomes nobody. It opens a database before, because nobody
# may not be allowed to read the libraries; that is so on every machine once `sys.path` is empty.
OPEN_AS_NOBODY = """
import os, sys
from vram_search.errors import StoreError
from vram_search.store import open_store
open_store(sys.argv[2], create=True).latest_study()
sys.path.clear()
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for create in (True, False):
    try:
        print(len(open_store(sys.argv[1], create=create).studies()))
    except StoreError as error:
        print(error.message)
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that other users can reach (pytest's own they cannot)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def open_as_nobody(start_python: Start, file: Path, scratch: Path) -> list[str]:
    """What becomes of opening with create=True, then with create=False."""
    process = start_python(OPEN_AS_NOBODY, sqlite_url(file), sqlite_url(scratch))
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out.splitlines()


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="POSIX permissions")
def test_read_only_database_is_read_and_not_written(
    public_folder: Path, file: Path, start_python: Start
) -> None:
    theirs = public_folder / "search.db"
    store = open_store(sqlite_url(theirs), create=True)
    store.create_study("demo", {}, "d1", {}, {})
    for path in public_folder.iterdir():
        path.chmod(0o444)
    outcomes = open_as_nobody(start_python, theirs, file)
    assert outcomes == [f"database {theirs} may not be written", "1"]


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="POSIX permissions")
def test_folder_without_permission_is_explained(
    public_folder: Path, file: Path, start_python: Start
) -> None:
    theirs = public_folder / "search.db"
    public_folder.chmod(0o555)
    outcomes = open_as_nobody(start_python, theirs, file)
    assert outcomes == [f"database {theirs} cannot be opened", f"no database at {theirs}"]
    public_folder.chmod(0o000)
    outcomes = open_as_nobody(start_python, theirs, file)
    assert outcomes == [f"database {theirs} cannot be reached: Permission denied"] * 2
