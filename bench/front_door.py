"""Asks this version about the cases of a folder, and compares with the answers kept there.

    python -m bench.front_door CASES [--kind A]

A case is a folder named by its kind and number: A are training files, B models, C data sets, D
folders and tables of runs, E studies, F chat templates. `cmd.txt` holds its commands, `answer.txt`
an older version's answer, `dry.txt` that of a dry run. Commands run in this process, in a copy of
CASES and with a home folder of their own. Printed is the line of each answer that decides: an
error, a verdict, the data read.

Studies of cases name their files relative to CASES, so that each is asked as a copy in that folder.
A command with `--card X` is asked for every card whose answer is kept (`## --card NAME`), and a
list of model names (`names.txt`) by `estimate`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vram_search.cli.main import main as command_line

DECIDES = re.compile(
    r"error|.*\bfits\b|does not fit|not known|data |trial 0|runs? |\d+,|study \w+: \d+ added"
    r"|template "
)
AND_DRY_RUN = "(and --dry-run)"
LONGEST_CELL = 150


@dataclass(frozen=True)
class Question:
    """A command of a case without the program's name, and the older version's answer."""

    words: list[str]
    before: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", type=Path, help="folder of cases")
    parser.add_argument("--kind", default="", help="cases whose name begins so")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "cases"
        shutil.copytree(arguments.cases, copy)
        os.environ["VRAM_SEARCH_HOME"] = str(Path(folder) / "home")
        with contextlib.chdir(copy):
            print("| case | command | before | now |\n| --- | --- | --- | --- |")
            print_rows(arguments.kind)


def print_rows(kind: str) -> None:
    """A row for each command of the cases whose name begins with `kind`."""
    for folder in sorted(path for path in Path().glob(f"{kind}*") if path.is_dir()):
        for question in questions(folder):
            code, text = ask(question.words)
            answers = (cell(question.before), f"{cell(text)} ({code})")
            row = (folder.name, shlex.join(question.words), *answers)
            print("| " + " | ".join(row) + " |", flush=True)


def questions(folder: Path) -> Iterator[Question]:
    """The commands of a case, in their order. "D03/..." stands for its input."""
    before, text = read(folder / "answer.txt"), read(folder / "cmd.txt")
    if names := read(folder / "names.txt").split():
        yield from (
            Question(["estimate", "--model", name, "--card", "24GB", "--no-trace"])
            for name in names
        )
    if not text and (folder / "study.yaml").is_file():
        text = f"vram-search run {folder.name}/study.yaml --dry-run"
    for command in text.partition("\n")[0].split(";") if text else ():
        words = shlex.split(command.replace(AND_DRY_RUN, ""))[1:]
        words = [place_of(word, folder) for word in words]
        if AND_DRY_RUN in command:
            yield Question([*words, "--dry-run"], read(folder / "dry.txt"))
        if words[-2:] == ["--card", "X"]:
            for name, answer in kept_answers(before):
                yield Question([*words[:-1], name], answer)
        else:
            yield Question(words, before)


def place_of(word: str, folder: Path) -> str:
    """A word of a command; a study as a copy beside the cases, "D03/..." as the case's input."""
    if word == f"{folder.name}/...":
        inputs = sorted(
            path.as_posix()
            for path in folder.iterdir()
            if path.name not in ("cmd.txt", "answer.txt")
        )
        return inputs[0] if len(inputs) == 1 else folder.as_posix()
    if word == f"{folder.name}/study.yaml":
        return shutil.copy(word, f"{folder.name}-study.yaml")
    return word


def kept_answers(text: str) -> list[tuple[str, str]]:
    """Names and answers of "## --card NAME" and the lines after it."""
    return re.findall(r"^## --card (\S+)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE)


def read(path: Path) -> str:
    """The text of a file; empty if it does not exist."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


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
