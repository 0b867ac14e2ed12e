"""A run keeps the machine awake, tells the user, and lets it sleep again however it ends."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from vram_search.worker.keep_awake import SystemdInhibitor, WindowsInhibitor, kept_awake

ECHO = (sys.executable, "-u", "-c", "import sys\nfor line in sys.stdin: print(line, end='')")
REFUSES = (sys.executable, "-c", "import sys; sys.exit('Failed to inhibit: Access denied')")


class FakeInhibitor:
    def __init__(self, refusal: str = "") -> None:
        self.refusal, self.calls = refusal, list[str]()

    def hold(self) -> str:
        self.calls.append("hold")
        return self.refusal

    def release(self) -> None:
        self.calls.append("release")


class FakeKernel:
    """Notes the states that a thread asks for."""

    def __init__(self, answer: int) -> None:
        self.answer, self.states = answer, list[int]()

    def SetThreadExecutionState(self, state: int) -> int:  # noqa: N802
        self.states.append(state)
        return self.answer


def test_the_machine_may_sleep_again_after_an_interrupted_run() -> None:
    inhibitor, notes = FakeInhibitor(), list[str]()
    with pytest.raises(KeyboardInterrupt), kept_awake(notes.append, lambda: inhibitor):
        assert inhibitor.calls == ["hold"]
        raise KeyboardInterrupt
    assert inhibitor.calls == ["hold", "release"]
    assert notes == ["the machine stays awake while the run lasts (--no-keep-awake: it may sleep)"]


def test_a_refusal_is_noted_and_ends_no_run() -> None:
    notes: list[str] = []
    with kept_awake(notes.append, lambda: FakeInhibitor("Access denied")):
        pass
    assert notes == ["the machine may fall asleep during the run: Access denied"]


def test_a_system_that_cannot_keep_awake_gives_no_note() -> None:
    notes: list[str] = []
    with kept_awake(notes.append, lambda: None):
        pass
    assert notes == []


@pytest.mark.parametrize(("answer", "refusal"), [(1, ""), (0, "Windows refuses")])
def test_windows_is_asked_for_its_system_state_and_set_back(answer: int, refusal: str) -> None:
    kernel = FakeKernel(answer)
    inhibitor = WindowsInhibitor(kernel)
    assert inhibitor.hold().startswith(refusal)
    inhibitor.release()
    assert kernel.states == [0x80000001, 0x80000000]


def test_systemds_child_holds_the_lock_until_it_is_released() -> None:
    inhibitor: Any = SystemdInhibitor(ECHO)
    assert inhibitor.hold() == ""
    child = inhibitor._process
    assert child.poll() is None
    inhibitor.release()
    assert child.returncode == 0, "it ends by itself when its input closes"


def test_systemds_refusal_is_returned_in_its_own_words() -> None:
    assert SystemdInhibitor(REFUSES).hold() == "Failed to inhibit: Access denied"
    assert "no-such-command" in SystemdInhibitor(("no-such-command",)).hold()
