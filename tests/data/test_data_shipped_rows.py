"""The shipped TRIZ rows: complete, and without repetition."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from vram_search.data import load_rows
from vram_search.resources import shipped
from vram_search.spec.dataset import DatasetSpec

FILE = shipped("studies", "data", "triz_en.jsonl")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def test_every_principle_has_each_of_six_kinds_once(rows: list[dict[str, Any]]) -> None:
    kinds = {row["kind"] for row in rows}
    assert len(rows) == 240
    assert len(kinds) == 6
    pairs = Counter((row["principle"], row["kind"]) for row in rows)
    assert pairs == {(principle, kind): 1 for principle in range(1, 41) for kind in kinds}


@pytest.mark.parametrize("field", ["instruction", "output"])
def test_no_text_is_repeated(rows: list[dict[str, Any]], field: str) -> None:
    repeated = [text for text, n in Counter(row[field] for row in rows).items() if n > 1]
    assert repeated == []


def test_no_two_outputs_begin_alike(rows: list[dict[str, Any]]) -> None:
    beginnings = Counter(tuple(row["output"].lower().split()[:5]) for row in rows)
    assert [words for words, n in beginnings.items() if n > 1] == []


def test_shipped_rows_load_and_are_split() -> None:
    loaded = load_rows(DatasetSpec(train=str(FILE)), 42)
    assert (len(loaded.train), len(loaded.eval)) == (216, 24)
