"""Fuzzes a reader with coverage feedback: atheris changes the bytes of the seeds.

python -m bench.fuzz.coverage message --seconds 60

It needs `pip install atheris` (Linux, Python up to 3.12); `make fuzz` needs nothing more.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[2] / "tests" / "fuzz" / "corpus"


def main() -> None:
    """Fuzzes until the time is over or a fault is found, whose input is kept in the corpus."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz.coverage", description=__doc__)
    parser.add_argument("reader", help="name of a reader of bench.fuzz.targets")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

    folder = Path(tempfile.mkdtemp(prefix="vram-search-fuzz-"))
    os.environ["VRAM_SEARCH_HOME"] = str(folder / "home")
    with atheris.instrument_imports(include=["vram_search"]):
        from bench.fuzz.run import keep, outcome_of
        from bench.fuzz.targets import make_targets

        target = next(t for t in make_targets(folder) if t.name == options.reader)
        for files in target.seeds:  # the readers import what they need, and so it is instrumented
            outcome_of(target, files, folder / "input")
    seed = target.seeds[0]
    changed = max(seed, key=lambda name: len(seed[name]))
    start = folder / "seeds"
    start.mkdir()
    for number, files in enumerate(target.seeds):
        if changed in files:
            (start / str(number)).write_bytes(files[changed])

    def read(data: bytes) -> None:
        files = {**seed, changed: data}
        outcome, place, said = outcome_of(target, files, folder / "input")
        if place:
            kept = keep(CORPUS, target.name, files)
            raise RuntimeError(f"{outcome}: {place}: {kept}\n{said}")

    limits = [f"-max_total_time={options.seconds}", "-max_len=4096", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *limits, str(start)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
