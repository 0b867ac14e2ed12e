"""`python -m bench.estimate_accuracy` on a few rows."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TRUTH = ROOT / "tests" / "fixtures" / "vram_truth.jsonl"
NOTES = ("family smollm2-360m", "all r16", "eval8")


def bench(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "bench.estimate_accuracy", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    else:
        yield value


@pytest.fixture
def three_rows(tmp_path: Path) -> list[Path]:
    """Two files, as --rows takes several."""
    lines = TRUTH.read_text(encoding="utf-8").splitlines()
    rows = [text for text in lines if json.loads(text)["note"] in NOTES]
    assert len(rows) == 3
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    files[0].write_text(rows[0] + "\n", encoding="utf-8")
    files[1].write_text("\n".join(rows[1:]), encoding="utf-8")
    return files


def test_three_rows_give_finite_numbers(three_rows: list[Path]) -> None:
    result = json.loads(bench("--rows", *three_rows, "--json"))
    assert all(math.isfinite(number) for number in numbers(result))
    assert (result["rows"], result["trained"]) == (3, 3)
    assert {name: group["runs"] for name, group in result["allocated"].items()} == {
        "nf4/bf16 sdpa": 2,
        "int8, eager, evaluation": 1,
    }
    assert set(result["families"]) == {"qwen2.5", "smollm2"}
    assert len(result["predictors"]) == 4


def test_json_is_the_same_every_time(three_rows: list[Path]) -> None:
    assert bench("--rows", *three_rows, "--json") == bench("--rows", *three_rows, "--json")


def test_table_of_all_modelled_rows_fits_eighty_columns() -> None:
    text = bench("--rows", TRUTH)
    assert "accelerate int4 total size x 1.2" in text
    assert max(map(len, text.splitlines())) <= 80


def test_runs_that_died_count_only_against_limits(tmp_path: Path) -> None:
    lines = TRUTH.read_text(encoding="utf-8").splitlines()
    died = [text for text in lines if not json.loads(text)["trained"]]
    file = tmp_path / "died.jsonl"
    file.write_text("\n".join(died), encoding="utf-8")
    result = json.loads(bench("--rows", file, "--json"))
    assert result["trained"] == 0
    assert result["limits"]["died"] == len(died)
    assert bench("--rows", file).startswith(f"{len(died)} rows, 0 finished")
