"""Ctrl-C while a command starts, works and ends: an exit code and no traceback."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

import vram_search.__main__ as program
from vram_search.cli import interrupts
from vram_search.cli import main as command_line


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Gives this process its handlers back."""
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    yield
    signal.signal(signal.SIGINT, before)
    sys.unraisablehook = hook


def run(monkeypatch: pytest.MonkeyPatch, command: Callable[[], None]) -> None:
    monkeypatch.setattr(command_line, "main", command)
    program.main()


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.default_int_handler])
def test_ctrl_c_raises_only_while_the_command_runs(
    monkeypatch: pytest.MonkeyPatch, before: signal.Handlers
) -> None:
    signal.signal(signal.SIGINT, before)
    seen: list[object] = []
    monkeypatch.setattr(
        interrupts,
        "raise_dropped_interrupts",
        lambda: seen.append(signal.getsignal(signal.SIGINT)),
    )
    run(monkeypatch, lambda: seen.append(signal.getsignal(signal.SIGINT)))
    seen.append(signal.getsignal(signal.SIGINT))
    assert seen == [signal.SIG_DFL, signal.default_int_handler, signal.SIG_DFL]


def test_ctrl_c_that_the_shell_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_outside_the_commands_own_handlers_is_the_exit_code_130(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    assert ended.value.code == 130


class Finalised:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_that_meets_a_finaliser_is_raised_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited = threading.Event()

    def command() -> None:
        Finalised()
        waited.wait(20)

    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, command)
    assert ended.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def test_other_errors_of_finalisers_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: shown.append(dropped.exc_type))
    interrupts.raise_dropped_interrupts()

    class Broken:
        def __del__(self) -> None:
            raise ZeroDivisionError

    Broken()
    assert shown == [ZeroDivisionError]
