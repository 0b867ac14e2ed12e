"""The commands of a script, notebook, Dockerfile or job as lines of a shell, and the files that it
writes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vram_search.tools.written_arguments import written_arguments

SHELL_SCRIPTS = (".sh", ".bash", ".zsh", ".slurm", ".sbatch")
WINDOWS_SCRIPTS = (".bat", ".cmd", ".ps1")
_GOES_ON = {".bat": "^", ".cmd": "^", ".ps1": "`"}
"""Suffix -> the character at the end of a line that goes on in the next; elsewhere a backslash."""
_ASSIGNMENT = re.compile(
    r"(?:(?:export|local|readonly|declare|set|ENV|ARG)\s+)?\"?\$?(?:env:)?([A-Za-z_]\w*)\s*=\s*"
    r"(\"[^\"]*\"|'[^']*'|[^\s\"#;]+)\"?\s*(?:;\s*)?(?:#.*)?",
    re.IGNORECASE,
)
_VARIABLE = re.compile(
    r"\$\{(?P<with_default>\w+):?[-=](?P<default>[^{}]*)\}"
    r"|\$\{?(?:env:)?(?P<name>[A-Za-z_]\w*)\}?|%(?P<windows>\w+)%|\{(?P<python>[A-Za-z_]\w*)\}"
)
_EXEC_FORM = re.compile(r"(?:CMD|ENTRYPOINT|RUN)\s+(\[.*\])\s*", re.IGNORECASE)
_HERE = re.compile(r"<<-?\s*[\"']?(\w+)[\"']?")
_WRITTEN = re.compile(r"(?:>|\btee\s+(?:-a\s+)?)\s*[\"']?([^\s\"'<>|]+)")
_WRITES_CELL = re.compile(r"%%writefile\s+(?:-a\s+)?[\"']?([^\s\"']+)")
MOST_CHARACTERS = 8_000
"""Characters of a line; a longer one is data, such as a packed archive, and no command."""
MOST_OF_A_VALUE = 1_000
"""Characters of a variable's value: values that hold each other may double with every line."""
MOST_OF_A_FILE = 100_000
"""Characters of a file that a script writes, to have variables filled in."""
_SHELL_CELLS = ("%%bash", "%%sh", "%%shell", "%%script bash", "%%cmd")


@dataclass(frozen=True)
class LaunchText:
    """The commands of a text.

    Attributes:
        lines: each command in one line, with the variables that the text sets filled in.
        written: name of a file that the text writes -> its contents.
    """

    lines: tuple[str, ...]
    written: Mapping[str, str] = field(default_factory=dict)


def script_lines(script: str, suffix: str = ".sh") -> LaunchText:
    """A script, batch file or Dockerfile.

    Args:
        suffix: of its name, in lower case: a batch file and PowerShell write variables and long
            lines in another way, and paths with backslashes.
    """
    body, written = _without_written(script.replace("\r\n", "\n").replace("\r", "\n"))
    joined = re.sub(re.escape(_GOES_ON.get(suffix, "\\")) + r"[ \t]*\n", " ", body)
    if suffix in WINDOWS_SCRIPTS:
        joined = joined.replace("\\", "/")
    return _filled_text(joined.split("\n"), written)


def notebook_lines(notebook: str) -> LaunchText:
    """The shell commands of a notebook: its `!` lines and its `%%bash` cells."""
    try:
        cells = json.loads(notebook).get("cells")
    except (ValueError, AttributeError, RecursionError):
        return LaunchText(())
    lines: list[str] = []
    written: dict[str, str] = {}
    for cell in cells if isinstance(cells, list) else []:
        source = cell.get("source") if isinstance(cell, dict) else None
        text = "".join(map(str, source)) if isinstance(source, list) else str(source or "")
        if not isinstance(cell, dict) or cell.get("cell_type", "code") != "code":
            continue
        first, _, rest = text.lstrip().partition("\n")
        if found := _WRITES_CELL.match(first):
            written[found[1]] = rest
        elif first.startswith(_SHELL_CELLS):
            shell = script_lines(rest)
            lines += shell.lines
            written.update(shell.written)
        else:
            joined = re.sub(r"\\[ \t]*\r?\n", " ", text)
            lines += [one.strip() for one in joined.split("\n") if _is_command_or_value(one)]
            written.update(written_arguments(text))
    return _filled_text(lines, written)


def job_lines(values: Mapping[Any, Any]) -> LaunchText:
    """The commands in the texts of a job's file: SkyPilot, Docker Compose, Kubernetes, CI."""
    lines: list[str] = []
    written: dict[str, str] = {}
    for text in _texts(values):
        script = script_lines(text)
        lines += script.lines
        written.update(script.written)
    return LaunchText(tuple(lines), written)


def _is_command_or_value(line: str) -> bool:
    return line.lstrip().startswith(("!", "%")) or bool(_ASSIGNMENT.fullmatch(line.strip()))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        if value and all(isinstance(one, str) for one in value):
            yield shlex.join(value)
        for one in value:
            yield from _texts(one)


def _without_written(script: str) -> tuple[str, dict[str, str]]:
    """A script without its here-documents, and the files that they write."""
    kept: list[str] = []
    written: dict[str, str] = {}
    lines = iter(script.split("\n"))
    for line in lines:
        kept.append(line)
        if not (here := _HERE.search(line)) or line.lstrip().startswith("#"):
            continue
        body = []
        for inner in lines:
            if inner.strip() == here[1]:
                break
            body.append(inner)
        if target := _WRITTEN.search(line):
            written[target[1]] = "\n".join(body) + "\n"
    return "\n".join(kept), written


def _filled_text(lines: list[str], written: Mapping[str, str]) -> LaunchText:
    """Lines and files with the values of the variables that the lines set."""
    variables: dict[str, str] = {}
    filled = []
    for line in lines:
        stripped = line.strip()
        if len(stripped) > MOST_CHARACTERS:
            continue
        if assigned := _ASSIGNMENT.fullmatch(stripped):
            value = _filled(assigned[2].strip("\"'"), variables)
            if 0 < len(value) <= MOST_OF_A_VALUE:  # an empty one is set by an argument
                variables[assigned[1]] = value
            continue
        if exec_form := _EXEC_FORM.fullmatch(stripped):
            stripped = _joined(exec_form[1])
        text = _filled(stripped, variables)
        if len(text) <= MOST_CHARACTERS:
            filled.append(text)
    files = {
        _filled(name, variables): _filled(text, variables) if len(text) <= MOST_OF_A_FILE else text
        for name, text in written.items()
    }
    return LaunchText(tuple(filled), files)


def _joined(exec_form: str) -> str:
    """A command that a Dockerfile writes as a list."""
    try:
        return shlex.join(map(str, json.loads(exec_form)))
    except (ValueError, TypeError, RecursionError):
        return exec_form


def _filled(text: str, variables: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = next(filter(None, (found[g] for g in ("with_default", "name", "windows", "python"))))
        return variables.get(name, found["default"] or found[0])

    return _VARIABLE.sub(value, text)
