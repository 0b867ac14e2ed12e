"""Every fault that was once found is held by tests that exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bench.faults.fault_table import FAULTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_held_by_tests_that_exist(fault: str) -> None:
    assert FAULTS[fault]
    for node in FAULTS[fault]:
        file, _, name = node.partition("::")
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        assert name in {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}


def test_documentation_names_every_test() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    names = [node.partition("::")[2] for nodes in FAULTS.values() for node in nodes]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_table_has_the_fourteen_faults() -> None:
    numbers = [int(name.split()[0]) for name in FAULTS if name[0].isdigit()]
    assert numbers == list(range(1, 15))
