"""Finds the tool's own Python, reads its package versions and runs commands in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vram_search.errors import InputError, reason_of
from vram_search.verify.tools import LLAMA_FACTORY, RealTool

POLL_SECONDS = 1.0
_LOG_LINES_SHOWN = 12
_PROBE_SECONDS = 300
_PROBE = (
    "import importlib.metadata as m, json, sys, torch\n"
    "found = {name: m.version(name) for name in sys.argv[1:]}\n"
    "print(json.dumps({'versions': found, 'has_gpu': torch.cuda.is_available()}))\n"
)


@dataclass(frozen=True)
class ToolEnvironment:
    """A Python in which a tool is installed.

    Attributes:
        title: the tool's name in messages.
        versions: versions of the packages that loss and bytes depend on.
        has_gpu: True if its torch finds a CUDA device.
    """

    python: Path
    versions: dict[str, str]
    has_gpu: bool
    title: str = LLAMA_FACTORY.title


def find_environment(python: Path | None, tool: RealTool = LLAMA_FACTORY) -> ToolEnvironment:
    """Returns the named Python, or the one of the tool's program on the PATH.

    A tool without a program (peft) has the Python that runs us by default.

    Raises:
        InputError: no such Python was found, or it lacks a package.
    """
    if python is None and not tool.program:
        python = Path(sys.executable)
    if python is None:
        cli = shutil.which(tool.program)
        if cli is None:
            raise InputError(f"no {tool.title} was found here", tool.how_to_make_one)
        python = Path(cli).resolve().with_name("python.exe" if os.name == "nt" else "python")
    # The link is not resolved: its own folder makes it a virtual environment's Python.
    python = Path(os.path.abspath(python))  # noqa: PTH100
    try:
        done = subprocess.run(
            [str(python), "-P", "-c", _PROBE, *tool.packages],
            env=tool_variables({}),
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or "no message").splitlines()[-1]
        raise InputError(
            f"{python} has no working {tool.title}: {reason}", tool.how_to_make_one
        ) from None
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{python} did not import torch within {_PROBE_SECONDS} s",
            "the first import may read gigabytes: try again, or look at the disk and the load",
        ) from None
    except (OSError, ValueError, IndexError) as error:
        raise InputError(
            f"{python} is not a Python that can be run ({reason_of(error)})", tool.how_to_make_one
        ) from None
    return ToolEnvironment(python, found["versions"], found["has_gpu"], tool.title)


def tool_variables(added: dict[str, str]) -> dict[str, str]:
    """Returns our environment variables without those that point a Python to our packages."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {
        "CUDA_VISIBLE_DEVICES": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
        **kept,
        "PYTHONUTF8": "1",
    } | added


def run_logged(
    command: Sequence[str | Path],
    folder: Path,
    log: Path,
    variables: dict[str, str],
    watch: Callable[[], None] = lambda: None,
) -> int:
    """Runs a command in `folder` to its end and returns its exit code.

    The command is killed on Ctrl-C and on any other error in this process.

    Args:
        log: file that receives its output.
        watch: called every POLL_SECONDS.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                watch()
    finally:
        process.kill()
        process.wait()


def last_lines(log: Path) -> str:
    """Returns the end of a log for an error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES_SHOWN:])
