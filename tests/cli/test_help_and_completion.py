"""What `--help` says of every command, and the scripts that let a shell complete."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vram_search.cli.main import COMMANDS, MODULES, PROGRAM, cli

SHELLS = ["bash", "zsh", "fish", "powershell"]
WIDTH = 80


def helped(*words: str) -> str:
    result = CliRunner().invoke(cli, [*words, "--help"], prog_name=PROGRAM, terminal_width=WIDTH)
    assert result.exit_code == 0, result.output
    return result.output


def command_of(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def examples(name: str) -> list[str]:
    lines = helped(name).splitlines()
    return [line.strip() for line in lines if line.startswith(f"    {PROGRAM} {name}")]


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_a_terminal(name: str) -> None:
    assert [line for line in helped(*name.split()).splitlines() if len(line) > WIDTH] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    options = [p for p in command_of(name).params if isinstance(p, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"completion"}))
def test_examples_of_the_help_are_understood(name: str) -> None:
    assert examples(name)
    for line in examples(name):
        words = shlex.split(line.partition(" > ")[0])[2:]
        command_of(name).make_context(name, words, parent=click.Context(cli))


def test_exit_codes_are_told_in_one_place() -> None:
    said = helped()
    for line in ("0    done", "1    failed", "2    wrong input", "130  interrupted"):
        assert line in said


def complete(shell: str, line: str) -> list[str]:
    """The values that a shell's script is given for a line; no option is typed out yet."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_VRAM_SEARCH_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "vram_search"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if shell in ("zsh", "powershell"):
        return lines[1::3]
    return [line.partition(",")[2].partition("\t")[0] for line in lines]


@pytest.mark.parametrize("shell", SHELLS)
def test_script_asks_for_what_the_program_answers(shell: str) -> None:
    script = CliRunner().invoke(cli, ["completion", shell], prog_name=PROGRAM)
    assert script.exit_code == 0, script.output
    assert PROGRAM in script.output
    assert f"{shell}_complete" in script.output
    assert "_VRAM_SEARCH_COMPLETE" in script.output
    assert complete(shell, "vram-search co") == ["compare", "completion"]
    assert complete(shell, "vram-search top --r") == ["--rows"]
    assert complete(shell, "vram-search export best --to a") == ["axolotl"]


@pytest.mark.skipif(shutil.which("bash") is None or os.name == "nt", reason="needs bash")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    program = tmp_path / PROGRAM
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vram_search "$@"\n')
    program.chmod(0o755)
    code = (
        f'eval "$({PROGRAM} completion bash)"\n'
        f"COMP_WORDS=({PROGRAM} imp) COMP_CWORD=1\n"
        f"_vram_search_completion {PROGRAM}\n"
        'echo "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", code],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["importance", "import"], done.stderr


def test_shell_that_click_does_not_know_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from vram_search.cli import completion
    from vram_search.errors import InputError

    monkeypatch.setattr(completion, "get_completion_class", lambda shell: None)
    with pytest.raises(InputError, match="no completion for powershell") as refused:
        CliRunner().invoke(cli, ["completion", "powershell"], catch_exceptions=False)
    assert "click>=8.5" in refused.value.remedy


def test_completing_a_command_imports_none_of_them() -> None:
    code = (
        "import sys\n"
        "from vram_search.cli.main import cli\n"
        "cli.shell_complete(__import__('click').Context(cli), 'e')\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = {f"vram_search.cli.{MODULES.get(name, name)}" for name in COMMANDS}
    assert set(done.stdout.split()) & modules == set()
