"""Finds out if the kernel killed a process because main memory ran out (Linux)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vram_search.units import format_bytes

ROOT = Path("/")


@dataclass(frozen=True)
class OutOfMemoryKills:
    """The kernel's count of processes that it killed for lack of memory; None if it has none.

    Attributes:
        limit_bytes: memory limit of this process's control group; None: the machine's memory.
    """

    count: int | None
    limit_bytes: int | None = None

    @property
    def limit_words(self) -> str:
        if self.limit_bytes is None:
            return "of this machine"
        return f"of this container or session ({format_bytes(self.limit_bytes)})"


def read_kills(root: Path = ROOT) -> OutOfMemoryKills:
    """Reads the count of the own control group, or else that of the whole machine.

    Sources: Linux, `Documentation/admin-guide/cgroup-v2.rst` (memory.events, memory.max) and
    `mm/vmstat.c` (oom_kill, since 4.13).
    """
    for group in _control_groups(root):
        count = _named_number(group / "memory.events", "oom_kill")
        if count is not None:
            return OutOfMemoryKills(count, _number(group / "memory.max"))
    return OutOfMemoryKills(_named_number(root / "proc" / "vmstat", "oom_kill"))


def killed_by_kernel(before: OutOfMemoryKills, after: OutOfMemoryKills) -> bool:
    """Returns True if the kernel killed a process for lack of memory between two readings."""
    if before.count is None or after.count is None:
        return False
    return after.count > before.count


def _control_groups(root: Path) -> list[Path]:
    """The own control group and those that it is in, nearest first; a container sees its root."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None:
        return []
    top = root / "sys" / "fs" / "cgroup"
    group = top / own.strip("/")
    return [path for path in (group, *group.parents) if path == top or top in path.parents]


def _named_number(file: Path, name: str) -> int | None:
    """The number behind a name in a file of lines "name number"."""
    try:
        pairs = dict(line.split(maxsplit=1) for line in file.read_text().splitlines() if line)
        return int(pairs[name])
    except (OSError, KeyError, ValueError):
        return None


def _number(file: Path) -> int | None:
    """The number in a file; None if it holds a word, such as "max"."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
