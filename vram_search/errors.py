"""The errors a person sees: what happened, which value, what to do next. Caught once, in `cli`."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_VALUE = 200
"""Characters of a faulty value that are shown."""
FAULTS_SHOWN = 20
"""Faults of one file that are shown; the others are counted."""


class VramSearchError(Exception):
    """Something failed that the person can understand and act on.

    Args:
        message: what happened, with the value that caused it.
        remedy: what to do next; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class InputError(VramSearchError):
    """The input cannot be used as written: a file, an option or a database is wrong."""

    exit_code = 2


class NotFoundError(InputError):
    """The study, the trial or the queue entry that was named does not exist."""


class ModelNotFoundError(InputError):
    """No model of this name is on this machine, or the hub cannot or may not be asked for it."""


class TooLateError(InputError):
    """The action is not possible in the present state, for example on a study that has ended."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a file: where, what stands there, and what is allowed."""

    path: str
    message: str
    value: object = None
    allowed: str = ""

    def __str__(self) -> str:
        value = "" if self.value is None else f" (is {shortened(repr(self.value))})"
        allowed = f"; allowed: {self.allowed}" if self.allowed else ""
        return f"{self.path}: {self.message}{value}{allowed}"


def shortened(text: str) -> str:
    """A value's first characters; a value that fills the screen would hide the other faults."""
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message; the name of its class if there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reason_of(error: Exception) -> str:
    """Why reading or writing failed, without the system's number and the path: the message of an
    OSError repeats them. A text in another encoding is named with its first foreign byte."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return str(getattr(error, "strerror", None) or error)


class FaultyFileError(InputError):
    """A file with one or more faults, all of them reported together.

    Args:
        headline: instead of their number.
    """

    def __init__(
        self, source: str, faults: Sequence[Fault], headline: str = "", remedy: str = ""
    ) -> None:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = "\n".join(f"  {fault}" for fault in faults[:FAULTS_SHOWN])
        if len(faults) > FAULTS_SHOWN:
            lines += f"\n  ... and {len(faults) - FAULTS_SHOWN} more"
        super().__init__(f"{source}: {headline or count}\n{lines}", remedy)
        self.faults = list(faults)


class StoreError(InputError):
    """The database cannot be used: not ours, newer, locked, read-only or on a full disk."""


class NothingStoredError(StoreError):
    """The database is not there yet, or holds no study: nothing is wrong with it."""


_FULL_DISK = (
    "no space left",
    "disk quota",
    "file too large",
    "not enough space on the disk",
)


_MORE_PROCESSES = (
    "allow this user more processes (`ulimit -u`), or the container (`docker run --pids-limit`)"
)
_SYSTEM_REMEDIES = {
    "EMFILE": "allow this process more open files: `ulimit -n 4096`",
    "ENFILE": "this machine has too many open files: end other programs",
    "ENOSPC": "free some space on its disk",
    "EDQUOT": "free some space on its disk: this user's quota is used up",
    "EFBIG": "allow this process larger files: `ulimit -f unlimited`",
    "EAGAIN": _MORE_PROCESSES,
    "EACCES": "allow this user to use it: check its permissions and those of its folder",
    "EPERM": "allow this user to use it: check its permissions and those of its folder",
    "EROFS": "its disk is read-only: name another place",
    "ENAMETOOLONG": "give it a shorter name",
    "EIO": "check its disk, network share or terminal",
    "ENOLCK": "its file system cannot lock files: name a place on a local disk",
    "ENOTSUP": "its file system cannot do that: name a place on a local disk",
    "EOPNOTSUPP": "its file system cannot do that: name a place on a local disk",
    "ESTALE": "check its network share",
    "ENOTCONN": "check its network share",
}
"""The remedy of an error of the system, by its name; not every system has all of them."""


def system_remedy(error: OSError) -> str:
    """Returns what to do about an error of a file or of the output; empty if its cause is rare."""
    return _SYSTEM_REMEDIES.get(errno.errorcode.get(error.errno or 0, ""), "")


def machine_fault(error: MemoryError | RuntimeError) -> VramSearchError | None:
    """Returns the fault of the machine that Python raises as such an error; None for others."""
    if isinstance(error, MemoryError):
        return VramSearchError("the main memory ran out", "end other programs and try again")
    if "start new thread" in str(error):
        return VramSearchError("the system starts no more threads", _MORE_PROCESSES)
    return None


_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""A message of numpy's `tofile`, which hides the system's own: the disk is full."""


def is_full_disk(message: str) -> bool:
    """Returns True if an error's text says that the disk takes nothing more. Libraries such as
    safetensors raise no OSError for it."""
    text = message.lower()
    return any(words in text for words in _FULL_DISK) or bool(_SHORT_WRITE.search(text))
