"""Asks an older and this version about data sets and folders of runs of a folder of cases.

    git worktree add ../older c44b158
    python -m bench.front_door CASES --older ../older --kind D

A case is a folder named by its kind and number: C are data sets (`run base_study.yaml --dry-run`),
D are folders and tables of runs (`import`, then `top --all`). Printed is the last line of each
answer; the first line where it is an error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", type=Path, help="folder of cases")
    parser.add_argument("--older", type=Path, required=True, help="checkout of the older version")
    parser.add_argument("--kind", choices=("C", "D"), required=True)
    arguments = parser.parse_args()
    cases = arguments.cases.resolve()
    print("| case | before | after |\n| --- | --- | --- |")
    for case in sorted(cases.glob(f"{arguments.kind}[0-9]*")):
        inputs = sorted(p for p in case.iterdir() if p.name not in ("cmd.txt", "answer.txt"))
        if inputs:
            asked = case if arguments.kind == "D" and len(inputs) > 1 else inputs[0]
            answers = [_answer(asked, cases, one) for one in (arguments.older.resolve(), HERE)]
            print(f"| {case.name} | {answers[0]} | {answers[1]} |", flush=True)


def _answer(asked: Path, cases: Path, checkout: Path) -> str:
    with tempfile.TemporaryDirectory() as home:
        if asked.parent.name.startswith("D") or asked.name.startswith("D"):
            said = _ask(["import", str(asked)], cases, checkout, home)
            if said.startswith("error"):
                return _cell(said)
            return _cell(_ask(["top", "--all", "--csv"], cases, checkout, home), rows=True)
        study = ["run", "base_study.yaml", "--set", f"dataset.train={asked}", "--dry-run"]
        database = ["--database", str(Path(home) / "x.db")]
        return _cell(_ask([*study, *database], cases, checkout, home))


def _ask(arguments: list[str], folder: Path, checkout: Path, home: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vram_search", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(checkout), "VRAM_SEARCH_HOME": home},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    return done.stdout if done.returncode == 0 else done.stderr or done.stdout


def _cell(text: str, *, rows: bool = False) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    if rows:
        return "; ".join(",".join(line.split(",")[1:3]) for line in lines[1:4])
    line = next((one for one in lines if one.lstrip().startswith(("error", "data"))), lines[0])
    return " ".join(line.split()).replace("|", "\\|")[:110]


if __name__ == "__main__":
    main()
