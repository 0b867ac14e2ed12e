"""The kernel's own count says if a process was killed for lack of main memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from vram_search.units import GIB
from vram_search.worker.host_memory import OutOfMemoryKills, killed_by_kernel, read_kills


def machine(root: Path, files: dict[str, str]) -> Path:
    """A folder that stands for the root of a machine's file system."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


EVENTS = "low 0\nhigh 3\nmax 12\noom 2\noom_kill 2\noom_group_kill 0\n"


def test_the_own_control_group_is_counted_with_its_limit(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/run.scope\n",
            "sys/fs/cgroup/user.slice/run.scope/memory.events": EVENTS,
            "sys/fs/cgroup/user.slice/run.scope/memory.max": f"{16 * GIB}\n",
            "proc/vmstat": "oom_kill 99\n",
        },
    )
    kills = read_kills(root)
    assert kills == OutOfMemoryKills(2, 16 * GIB)
    assert "16.00 GiB" in kills.limit_words


def test_a_group_without_a_count_leaves_it_to_the_one_around_it(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/memory.events": EVENTS,
            "sys/fs/cgroup/a/memory.max": "max\n",
        },
    )
    assert read_kills(root) == OutOfMemoryKills(2, None)


@pytest.mark.parametrize("group", ["12:memory:/a\n", "0::/\n", None])
def test_the_machine_is_counted_where_no_group_is(tmp_path: Path, group: str | None) -> None:
    files = {"proc/vmstat": "nr_free_pages 1\noom_kill 7\n"}
    root = machine(tmp_path, files | ({"proc/self/cgroup": group} if group else {}))
    assert read_kills(root) == OutOfMemoryKills(7)
    assert read_kills(root).limit_words == "of this machine"


def test_a_system_without_counts_blames_no_kernel(tmp_path: Path) -> None:
    nothing = read_kills(tmp_path)
    assert nothing.count is None
    assert not killed_by_kernel(nothing, OutOfMemoryKills(1))
    assert not killed_by_kernel(OutOfMemoryKills(1), OutOfMemoryKills(1))
    assert killed_by_kernel(OutOfMemoryKills(1), OutOfMemoryKills(2))
