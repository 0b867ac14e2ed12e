"""Asks this version about the cases of a folder, and compares with the answers kept there.

    python -m bench.front_door CASES [--kind A]

A case is a folder named by its kind and number: A are training files, B models, C data sets, D
folders and tables of runs, E studies, F chat templates. `cmd.txt` holds its command, run from
CASES, and `answer.txt` an older version's answer. Commands run in this process, in a home folder of
their own. Printed is the line of each answer that decides: an error, a verdict, the data read.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

from vram_search.cli.main import main as command_line

DECIDES = re.compile(
    r"error|.*\bfits\b|does not fit|not known|data |trial 0|runs? |\d+,|study \w+: \d+ added"
)
LONGEST_CELL = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", type=Path, help="folder of cases")
    parser.add_argument("--kind", default="", help="cases whose name begins so")
    arguments = parser.parse_args()
    os.chdir(arguments.cases)
    print("| case | command | before | now |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as home:
        os.environ["VRAM_SEARCH_HOME"] = home
        print_rows(arguments.kind)


def print_rows(kind: str) -> None:
    """A row for each case whose name begins with `kind`."""
    for case in sorted(Path().glob(f"{kind}*/cmd.txt")):
        folder = case.parent
        for command in commands_of(case.read_text(encoding="utf-8"), folder):
            code, text = ask(command)
        older = folder / "answer.txt"
        before = older.read_text(encoding="utf-8") if older.is_file() else ""
        row = (folder.name, shlex.join(command), cell(before), f"{cell(text)} ({code})")
        print("| " + " | ".join(row) + " |", flush=True)


def commands_of(text: str, folder: Path) -> list[list[str]]:
    """The commands of a case, without the program's name. "D03/..." stands for the input."""
    line = text.splitlines()[0].replace("(and --dry-run)", "--dry-run")
    inputs = sorted(
        path.as_posix() for path in folder.iterdir() if path.name not in ("cmd.txt", "answer.txt")
    )
    one = inputs[0] if len(inputs) == 1 else folder.as_posix()
    commands = [shlex.split(part.replace(f"{folder.name}/...", one)) for part in line.split(";")]
    return [words[1:] for words in commands]


def ask(arguments: list[str]) -> tuple[int, str]:
    """The exit code and what a command prints."""
    printed = io.StringIO()
    kept, sys.argv = sys.argv, ["vram-search", *arguments]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            command_line()
    except SystemExit as done:
        return int(done.code or 0), printed.getvalue()
    finally:
        sys.argv = kept
    raise AssertionError("the command line ends with SystemExit")


def cell(text: str) -> str:
    """The line that decides, short."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    decisive = [line for line in lines if DECIDES.match(line)]
    return (decisive or lines or [""])[0].replace("|", "\\|")[:LONGEST_CELL]


if __name__ == "__main__":
    main()
