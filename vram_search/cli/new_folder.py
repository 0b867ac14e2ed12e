"""Writes a folder that appears whole or not at all, in place of an older one if there is one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from vram_search.cli.console import echo
from vram_search.cli.interrupts import second_interrupt_quits
from vram_search.errors import InputError, reason_of


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target`, which gets its name if the block ends well.

    After an error, Ctrl-C or SIGTERM nothing of it is left, and an older `target` is as it was.
    What a killed process left is removed by the next call for the same target.

    Raises:
        InputError: the folder cannot be written, or another process is writing it.
    """
    target = target.absolute()
    part, old, lock_file = (
        target.with_name(f".{target.name}.vram-search-{kind}") for kind in ("part", "old", "lock")
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_file, timeout=0)
        with second_interrupt_quits(), lock:
            try:
                _settle(target, old)
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                yield part
                if target.exists():
                    target.replace(old)
                part.replace(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
                _settle(target, old)
                with contextlib.suppress(OSError):  # Windows keeps an open file
                    lock_file.unlink()
    except KeyboardInterrupt:
        echo(f"interrupted: {target} was not written; the same command writes it", err=True)
        raise
    except Timeout:
        if not lock_file.exists():
            raise _unwritable(target, "no file can be created beside it") from None
        raise InputError(
            f"another process is writing {target}", "wait for it, or choose another folder with -o"
        ) from None
    except (FileExistsError, NotADirectoryError):
        raise _unwritable(target, "a file has the name of a folder above it") from None
    except OSError as error:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        if names and not any(name.startswith(str(target.parent)) for name in names):
            raise  # another file is to blame
        raise _unwritable(target, reason_of(error)) from None


def _unwritable(target: Path, reason: str) -> InputError:
    return InputError(
        f"{target} cannot be written: {reason}",
        "check permissions and free disk space, or choose another folder with -o",
    )


def _settle(target: Path, old: Path) -> None:
    """Ends a replacement: removes the older folder, or gives it its name back."""
    if not old.exists():
        return
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.replace(target)
