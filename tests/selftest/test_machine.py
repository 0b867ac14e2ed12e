"""Clock, disk and sleep, on the real machine and on ones that misbehave."""

from __future__ import annotations

import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest

from vram_search.selftest.machine import check_clock, check_disk, check_keep_awake
from vram_search.units import GIB, MIB

Usage = namedtuple("Usage", "total used free")


def test_the_clocks_of_this_machine_agree() -> None:
    assert check_clock(wait_seconds=0.01).state == "passed"


def test_a_system_time_that_jumps_fails() -> None:
    jumps = iter([0.0, 3600.0, 3600.0])
    found = check_clock(lambda: time.time() + next(jumps), wait_seconds=0.01)
    assert found.state == "failed"
    assert "+3600.0" in found.sentence


def test_a_system_time_before_the_release_fails() -> None:
    found = check_clock(lambda: 1e9, wait_seconds=0.0)
    assert "the year 2001" in found.sentence


def test_the_disk_check_removes_what_it_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    found = check_disk(folder)
    assert found.state == "passed"
    assert list(folder.iterdir()) == []


def test_little_free_space_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(9 * GIB, 9 * GIB, 300 * MIB))
    found = check_disk(tmp_path)
    assert found.state == "failed"
    assert "only 300 MiB are free" in found.sentence


class Inhibitor:
    def __init__(self, refusal: str) -> None:
        self.refusal, self.is_held = refusal, False

    def hold(self) -> str:
        self.is_held = True
        return self.refusal

    def release(self) -> None:
        self.is_held = False


@pytest.mark.parametrize(("refusal", "state"), [("", "passed"), ("not allowed", "failed")])
def test_the_machine_may_sleep_again_after_the_check(refusal: str, state: str) -> None:
    inhibitor = Inhibitor(refusal)
    assert check_keep_awake(lambda: inhibitor).state == state
    assert not inhibitor.is_held


def test_a_system_without_an_inhibitor_did_not_fail() -> None:
    assert check_keep_awake(lambda: None).state == "not possible here"
