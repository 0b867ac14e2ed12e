"""CPU time of short commands: `python -m bench.speed.start [--json]`.

Whole processes, in turn with a bare `import click`, so that the ratio holds on a busy machine. The
smallest of ROUNDS counts; bytecode is compiled by a first run that does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys

ROUNDS = 10
MODEL = ["--model", "qwen2.5-7b", "--card", "rtx-5060-ti-16gb"]
COMMANDS = {
    "import click": ["-c", "import click"],
    "--help": ["-m", "vram_search", "--help"],
    "estimate": ["-m", "vram_search", "estimate", *MODEL],
    "fit": ["-m", "vram_search", "fit", *MODEL],
}


def main() -> None:
    """Prints seconds of CPU time, and each as a multiple of `import click`."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed.start", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS + 1):
        for name, arguments in COMMANDS.items():
            times[name].append(cpu_seconds([sys.executable, *arguments]))
    best = {name: min(found[1:]) for name, found in times.items()}
    if options.json:
        print(json.dumps(best))
        return
    for name, seconds in best.items():
        print(f"{name:<14}{seconds:6.2f} s  {seconds / best['import click']:5.1f} x import click")


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
