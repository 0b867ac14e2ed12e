"""`vram-search selftest`: tests on this machine what a search relies on."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from vram_search import __version__
from vram_search.cli.console import echo
from vram_search.cli.doctor import machine_report
from vram_search.cli.options import database_option, json_option, print_json
from vram_search.report.wrapping import wrapped
from vram_search.resources import data_folder, expanded
from vram_search.units import format_duration

if TYPE_CHECKING:
    from vram_search.selftest.check import Check

_INDENT = " " * 4


@click.command(
    "selftest", short_help="Test a new machine in two minutes, for yourself or an issue."
)
@database_option
@json_option
def command(database: str | None, as_json: bool) -> None:
    """Tests on this machine, in about two minutes, what a search relies on: clock, disk, sleep,
    NVML, who manages the card's memory, spilling to system RAM, the allocator's cap, and the probe
    and steps of a tiny model in the real training process. Nothing else should use the GPU
    meanwhile. It writes nothing but files that it removes again.

    The JSON also has what `doctor` finds, without the name of your home folder: attach it to an
    issue.

    Exit code: 0 if no check failed, 1 otherwise. A check that is not possible here did not fail.

    \b
    Examples:
      vram-search selftest
      vram-search selftest --json > selftest.json
    """
    from vram_search.gpu import NvmlReader
    from vram_search.selftest.run import selftest, without_home

    started = time.monotonic()
    checks = []
    for check in selftest(data_folder(), NvmlReader, lambda names: echo(f"{names} ...", err=True)):
        checks.append(check)
        if not as_json:
            _print(check)
    seconds = time.monotonic() - started
    has_failed = any(check.state == "failed" for check in checks)
    if as_json:
        found: dict[str, Any] = {
            "vram-search": __version__,
            "passed": not has_failed,
            "seconds": round(seconds, 1),
            "checks": [asdict(check) for check in checks],
            "machine": machine_report(database),
        }
        print_json(without_home(found, expanded("~")))
    else:
        counts = Counter(check.state for check in checks)
        echo(f"{', '.join(f'{n} {state}' for state, n in counts.items())}; ", nl=False)
        echo(format_duration(seconds))
    sys.exit(1 if has_failed else 0)


def _print(check: Check) -> None:
    echo(f"{check.state:<18} {check.name}")
    for text in (check.sentence, check.remedy):
        if text:
            echo("\n".join(wrapped(text, _INDENT)))
