"""Runs the fuzzer, prints the table and keeps an input for each fault in tests/fuzz/corpus."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[2] / "tests" / "fuzz" / "corpus"
IN_MEMORY = Path("/dev/shm")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=200_000, help="inputs of all readers")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after these")
    parser.add_argument("--only", default="", help="names of readers, with commas")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()

    parent = IN_MEMORY if IN_MEMORY.is_dir() else None
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="vram-search-fuzz-", dir=parent) as name:
        os.environ["VRAM_SEARCH_HOME"] = f"{name}/home"
        os.environ["HF_HUB_OFFLINE"] = "1"
        from bench.fuzz.run import fuzz, keep
        from bench.fuzz.targets import make_targets

        wanted = set(filter(None, options.only.split(",")))
        targets = [t for t in make_targets(Path(name)) if not wanted or t.name in wanted]
        shares = sum(target.share for target in targets)
        end = time.monotonic() + 60 * options.minutes
        print("| reader | inputs | ok | refused | traceback | hang | a second |", flush=True)
        print("| --- | --: | --: | --: | --: | --: | --: |", flush=True)
        for position, target in enumerate(targets):
            began = time.monotonic()
            deadline = began + (end - began) / (len(targets) - position)
            count = round(options.count * target.share / shares)
            found = fuzz(target, count, options.seed, deadline, Path(name) / "input")
            total += found.counts
            pace = sum(found.counts.values()) / (time.monotonic() - began)
            print_row(target.name, found.counts, f"{pace:.0f}")
            for place, (said, files) in found.faults.items():
                file = keep(CORPUS, target.name, files)
                print(f"{place}: {file}\n{said}", file=sys.stderr, flush=True)
    print_row("all", total, "")
    print(f"seed {options.seed}")
    sys.exit(1 if total["traceback"] or total["hang"] else 0)


def print_row(name: str, counts: Counter[str], pace: str) -> None:
    """Prints a row of the table."""
    figures = " | ".join(str(counts[key]) for key in ("ok", "refused", "traceback", "hang"))
    print(f"| {name} | {sum(counts.values())} | {figures} | {pace} |", flush=True)


if __name__ == "__main__":
    main()
