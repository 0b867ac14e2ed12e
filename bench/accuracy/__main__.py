"""Writes docs/accuracy.md: `python -m bench.accuracy [--check]`.

Models without a formula are traced, which needs torch and takes some minutes.
"""

from __future__ import annotations

import argparse
import sys

from bench.accuracy.page import page
from bench.accuracy.rows import ROOT, load_rows

PAGE = ROOT / "docs" / "accuracy.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 if old")
    arguments = parser.parse_args()
    text = page(load_rows())
    if arguments.check:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == text else "docs/accuracy.md is old")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
