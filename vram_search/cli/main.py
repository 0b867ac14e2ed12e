"""Entry point: finds the subcommand, and turns our errors into one message and an exit code."""

from __future__ import annotations

import faulthandler
import importlib
import re
import sys
import traceback
from io import TextIOWrapper
from types import TracebackType

import click
from click.shell_completion import CompletionItem

from vram_search import __version__
from vram_search.cli.console import echo, ignore_output
from vram_search.cli.options import INTERRUPTED, SuggestingGroup
from vram_search.errors import (
    InputError,
    VramSearchError,
    machine_fault,
    reason_of,
    system_remedy,
)
from vram_search.extras import import_fault
from vram_search.installed import in_this_environment

GROUPS = {
    "Will it fit": {
        "estimate": "Predicted peak VRAM of a configuration, without a GPU.",
        "fit": "The largest rank, cutoff_len and micro-batch that fit a card.",
        "calibrate": "Measure this card's context and workspaces.",
    },
    "Search": {
        "init": "Write a study: asks for model, data and hours.",
        "data": "What would be trained: forms, tokens, cutoffs, rows as text.",
        "run": "Search for the best settings, overnight if need be.",
        "worker": "Join a study with one more card or machine.",
        "try": "Let a search try a point of yours next.",
        "next": "Propose the next night: a narrower study, or to stop.",
        "queue": "What runs, what runs next, and in which order.",
    },
    "Read the answer": {
        "best": "The trial to use, and what the search was worth.",
        "top": "Table of the best trials, or of all.",
        "show": "All that is known of one trial.",
        "why": "Why a trial ended as it did, with the figures.",
        "compare": "What differs between two trials, and what it did.",
        "pareto": "What each GiB buys: eval_loss against VRAM needed.",
        "importance": "Which settings changed the loss most.",
        "report": "Write the results as one HTML file.",
    },
    "Use the winner": {
        "train": "Train the winner again: more epochs, all rows, other seeds.",
        "merge": "Merge the winner's adapter into a model that runs.",
        "card": "The winner's adapter in a folder with a model card.",
        "export": "Write a trial for the tool that trains it.",
        "samples": "Answers of the untuned and the tuned model.",
        "chat": "Talk to the tuned model in the terminal.",
        "verify": "Train an export with the real tool and compare.",
    },
    "Keep the record": {
        "logs": "The log of the latest run, or of one trial.",
        "db": "Check, back up, repair, move or export the database.",
        "delete": "Delete a study with its trials and adapters.",
    },
    "Set up": {
        "demo": "A real search on a small model, in 4 to 8 minutes.",
        "doctor": "What is here: GPU, driver, packages, database, disk.",
        "selftest": "Test a new machine in two minutes, for yourself or an issue.",
        "studies": "The studies in the database, with their disk use.",
        "import": "Add runs made elsewhere.",
        "serve": "The service: queue, page and REST API.",
        "notify": "Send a test message to every receiver.",
        "dashboard": "Watch the searches in a browser: optuna-dashboard.",
        "completion": "Print a script for the shell's completion.",
    },
}
COMMANDS = {name: said for group in GROUPS.values() for name, said in group.items()}
MODULES = {"import": "import_runs", "try": "try_point"}
"""Where a command's module has another name: `import` and `try` are keywords."""
FAILED = 1
PROGRAM = "vram-search"
COMPLETE_VARIABLE = "_VRAM_SEARCH_COMPLETE"
"""Where a shell says that it asks for completions."""
EPILOG = """\b
Examples:
  vram-search run studies/demo.yaml    search; after Ctrl-C it continues
  vram-search best                     what it found
  vram-search export best              the YAML that trains it
  vram-search estimate --model qwen2.5-3b --card rtx-5060-ti-16gb

\b
Exit codes, of every command:
  0    done
  1    failed
  2    wrong input: the message says what to change
  130  interrupted; finished trials are kept

\b
Environment:
  VRAM_SEARCH_DATABASE  the database, as --database names it
  VRAM_SEARCH_HOME      folder of the default database and of the cache;
                        adapters, exports and logs are beside the database
  VRAM_SEARCH_CONFIG    the settings of this machine: receivers, trackers
"""


MAX_MESSAGE = 8000
"""Characters of an error; a name in it may be of any length."""


class LazyGroup(SuggestingGroup):
    """Imports a subcommand when it is called: `best` must not wait for what `run` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"vram_search.cli.{MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names without importing the commands."""
        names = [
            CompletionItem(name, help=said)
            for name, said in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Find the QLoRA configuration with the lowest eval_loss that fits your card."""


def main() -> None:
    """Runs the command line. Exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    faulthandler.enable(file=2)  # a crash in a library's C code leaves a trace in the log
    _replace_what_cannot_be_printed()
    sys.excepthook = _print_traceback
    try:
        _refuse_other_encodings(sys.argv[1:])
        code = cli.main(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, standalone_mode=False)
    except click.exceptions.Abort:
        code = INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        echo(error.format_message())
        code = error.exit_code
    except click.ClickException as error:
        _print_error(_plain(error.format_message()), _usage_remedy(error))
        code = error.exit_code
    except VramSearchError as error:
        _print_error(error.message, error.remedy)
        code = error.exit_code
    except ImportError as error:
        fault = import_fault(error)
        _print_error(fault.message, fault.remedy)
        code = fault.exit_code
    except (MemoryError, RuntimeError) as error:
        machine = machine_fault(error)
        if machine is None:
            raise
        _print_error(machine.message, machine.remedy)
        code = machine.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # `| head` has read enough
        code = 0
    except OSError as error:
        place = error.filename or "a file or the output"
        echo(f"error: {place} cannot be used: {reason_of(error)}", err=True)
        remedy = system_remedy(error) or "check its permissions and its disk's free space"
        echo(f"remedy: {remedy}", err=True)
        _drop_unwritten_output()
        code = FAILED
    sys.exit(code if isinstance(code, int) else 0)


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Prints the traceback of a fault of ours; messages of drivers in it may hold a password."""
    echo("".join(traceback.format_exception(kind, error, trace)).rstrip(), err=True)


def _drop_unwritten_output() -> None:
    """Keeps Python from writing the rest at its end, which fails again with another message."""
    if sys.stdout is None:  # closed before the program began
        return
    try:
        sys.stdout.flush()
    except OSError:
        ignore_output(sys.stdout.fileno())


def _refuse_other_encodings(arguments: list[str]) -> None:
    """Refuses names of files that are not UTF-8: neither a record nor a log can hold them.

    Raises:
        InputError: an argument is one.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{argument!r} is not UTF-8", "rename the file, or name its folder another way"
            ) from None


def _print_error(message: str, remedy: str) -> None:
    message, remedy = in_this_environment(message), in_this_environment(remedy)
    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]} ... ({len(message) - MAX_MESSAGE} more characters)"
    echo(f"error: {message}", err=True)
    if remedy:
        echo(f"remedy: {remedy}", err=True)


def _plain(message: str) -> str:
    """A message of click in plain words: it calls a number with limits a range, and takes -1 for an
    option."""
    for kind, words in (("integer", "whole number"), ("float", "number")):
        message = re.sub(f"is not a valid {kind}( range)?", f"is not a {words}", message)
    return re.sub(r"^No such option '-\d'", "A negative number is not possible here", message)


def _usage_remedy(error: click.ClickException) -> str:
    """The help of the command that was called, or the usage line if the call lacks something."""
    if not isinstance(error, click.UsageError) or error.ctx is None:
        return ""
    if isinstance(error, click.NoSuchOption) and error.ctx.parent is None:
        return f"options follow the command: {PROGRAM} COMMAND {error.option_name} ..."
    usage = " ".join(error.ctx.get_usage().split())
    return f"{usage}; `{error.ctx.command_path} --help` explains it"


def _replace_what_cannot_be_printed() -> None:
    """A file that Windows redirects to takes its code page alone: better a `?` than no answer."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
