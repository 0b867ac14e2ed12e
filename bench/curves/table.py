"""Makes the committed table out of measured rows.

    python -m bench.curves.table FOLDER [FOLDER ...] [--out DIR]

Losses and bytes are as measured. Seconds were measured while several processes shared the card;
they are multiplied by what the lone runs of the same configurations took of them, in the median:
one factor each for training, evaluation and set-up, for each FOLDER. What the tables in DIR hold
already stays. One file a task, README.md with figures, and measured.json: what each measurement ran
on, and its factors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.curves.figures import task_figures
from bench.curves.rows import Row, distinct, read_rows, row_key, write_rows
from vram_search.errors import InputError, VramSearchError
from vram_search.spec.hyperparameters import MAIN

MEASURED = "measured.json"
TABLES = Path(__file__).parent / "tables"
FIELDS = (
    "task", "config", "seed", *(dimension.name for dimension in MAIN),
    "steps", "eval_steps", "eval_loss", "train_seconds", "eval_seconds", "setup_seconds",
    "max_allocated_bytes", "example_loss_sums",
)  # fmt: skip
"""The keys of a table's row, in order; the last one is missing if the run diverged."""


@dataclass(frozen=True)
class Factors:
    """Seconds alone on the card over seconds beside others: the ratio of each lone run."""

    train: list[float]
    eval: list[float]
    setup: list[float]

    def alone(self, row: Row) -> Row:
        """The row with the seconds that it would have taken alone."""
        return row | {
            f"{kind}_seconds": round(statistics.median(ratios) * row[f"{kind}_seconds"], 3)
            for kind, ratios in self.by_kind().items()
        }

    def by_kind(self) -> Mapping[str, list[float]]:
        return {"train": self.train, "eval": self.eval, "setup": self.setup}

    def lines(self) -> list[str]:
        return [
            f"- `{kind}_seconds`: x {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} lone runs)"
            for kind, ratios in self.by_kind().items()
        ]


def factors(lone: Sequence[Row], shared: Sequence[Row]) -> Factors:
    """Compares the median seconds of steps, the seconds of one evaluation, and those of set-up.

    Rows of an earlier table count as lone runs; of them all training seconds are known.

    Raises:
        InputError: no lone run has a shared one to compare with.
    """
    by_key = {row_key(row): row for row in shared}
    pairs = [(row, by_key[row_key(row)]) for row in lone if row_key(row) in by_key]
    pairs = [pair for pair in pairs if all(row.get("step_seconds", 1) for row in pair)]
    if not pairs:
        raise InputError(
            "no configuration was measured alone and beside others",
            "measure some alone: python -m bench.curves --lone 16",
        )

    def evaluation(row: Row) -> float:
        seconds: float = row["eval_seconds"] / sum(loss is not None for loss in row["eval_loss"])
        return seconds

    def training(one: Row, other: Row) -> float:
        name = "step_seconds" if "step_seconds" in one else "train_seconds"
        ratio: float = one[name] / other[name]
        return ratio

    return Factors(
        [training(one, other) for one, other in pairs],
        [evaluation(one) / evaluation(other) for one, other in pairs],
        [one["setup_seconds"] / other["setup_seconds"] for one, other in pairs],
    )


def make_tables(folder: Path, out: Path) -> dict[str, Any]:
    """Adds a folder's rows to `TASK.jsonl` of each task, and writes README.md; figures by task.

    Raises:
        InputError: the folder lacks runs or lone runs.
    """
    shared = [row for row in read_rows(folder / "runs.jsonl") if "workers" in row]
    ratios = factors(read_rows(folder / "lone.jsonl"), shared)
    out.mkdir(parents=True, exist_ok=True)
    tables = {file.stem: read_rows(file) for file in out.glob("*.jsonl")}
    for row in shared:
        alone = ratios.alone(row)
        tables.setdefault(row["task"], []).append({f: alone[f] for f in FIELDS if f in alone})
    found = {}
    for task in sorted(tables):
        rows = sorted(distinct(tables[task]), key=row_key)
        write_rows(out / f"{task}.jsonl", rows)
        found[task] = task_figures(rows)
    measured = _measurements(out)
    measured.append(_measurement(ratios, shared))
    (out / MEASURED).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(readme(found, measured), encoding="utf-8")
    return found


def _measurements(out: Path) -> list[dict[str, Any]]:
    file = out / MEASURED
    found: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.exists() else []
    return found


def _measurement(ratios: Factors, shared: Sequence[Row]) -> dict[str, Any]:
    return {
        "runs": len(shared),
        "workers": sorted({row["workers"] for row in shared}),
        "machines": sorted({json.dumps(row["machine"], sort_keys=True) for row in shared}),
        "factors": ratios.lines(),
    }


def readme(figures: Mapping[str, Mapping[str, str]], measured: Sequence[Mapping[str, Any]]) -> str:
    tasks = list(figures)
    lines = [
        "# Real loss curves",
        "",
        "Written by `python -m bench.curves.table`; how and what: [../README.md](../README.md).",
        "Seconds are those of a lone process: measured ones times the median ratio of lone runs of",
        "the same configurations.",
        "",
    ]
    for one in measured:
        workers = ", ".join(str(count) for count in one["workers"])
        lines += [
            f"{one['runs']} runs, {workers} processes on the card:",
            "",
            *one["factors"],
            *(f"- `{machine}`" for machine in one["machines"]),
            "",
        ]
    lines += ["| | " + " | ".join(tasks) + " |", "| --- |" + " ---: |" * len(tasks)]
    for name in figures[tasks[0]]:
        lines.append(f"| {name} | " + " | ".join(figures[task][name] for task in tasks) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="+", help="--out of python -m bench.curves")
    parser.add_argument("--out", type=Path, default=TABLES)
    arguments = parser.parse_args()
    try:
        for folder in arguments.folder:
            figures = make_tables(folder, arguments.out)
    except VramSearchError as error:
        print(f"error: {error.message}\nremedy: {error.remedy}", file=sys.stderr)
        sys.exit(error.exit_code)
    for task, found in figures.items():
        print(task, *(f"  {name}: {value}" for name, value in found.items()), sep="\n")


if __name__ == "__main__":
    main()
