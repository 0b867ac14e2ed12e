"""Commands in the tutorials exist with their options, and those without a GPU run."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from vram_search.cli.main import cli

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


def commands(page: Path) -> list[list[str]]:
    """Arguments of each `vram-search` command in the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("vram-search ")]


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_commands_parse(page: Path) -> None:
    found = commands(page)
    assert found
    context = click.Context(cli, info_name="vram-search")
    for name, *arguments in found:
        command = cli.get_command(context, name)
        assert command is not None, name
        command.make_context(name, list(arguments), parent=context)


def test_estimates_of_the_second_tutorial_run(
    vram_search_without_training: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    page = ROOT / "docs" / "tutorials" / "which-model-for-my-card.md"
    for arguments in commands(page):
        if arguments[0] in ("fit", "estimate"):
            done = vram_search_without_training(*arguments)
            assert done.returncode == 0, done.stdout
