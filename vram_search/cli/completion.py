"""`vram-search completion`: the script that lets a shell complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from vram_search.cli.console import echo_styled
from vram_search.cli.main import COMPLETE_VARIABLE, PROGRAM, cli
from vram_search.errors import InputError


@click.command("completion", short_help="Print a script for the shell's completion.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish", "powershell"]))
def command(shell: str) -> None:
    """Prints the script with which SHELL completes commands, options and file names.

    \b
    In its start file:
      .bashrc      eval "$(vram-search completion bash)"
      .zshrc       eval "$(vram-search completion zsh)", after compinit
      config.fish  vram-search completion fish | source
      $PROFILE     vram-search completion powershell | Out-String | iex

    bash needs version 4.4, PowerShell click 8.5.
    """
    completion = get_completion_class(shell)
    if completion is None:
        raise InputError(
            f"the installed click writes no completion for {shell}", 'pip install "click>=8.5"'
        )
    echo_styled(completion(cli, {}, PROGRAM, COMPLETE_VARIABLE).source(), nl=False)
