"""The scoreboard's page follows from its rows; those with a formula are predicted again here."""

from __future__ import annotations

import re

import pytest

from bench.accuracy.page import TITLES, headline_errors, misses, page
from bench.accuracy.rows import ROOT, Row, load_rows

PAGE = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
POINTS = [row for row in load_rows() if not row.is_recipe]


UNSLOTH = "Unsloth's context table, Hugging Face + FA2"


@pytest.mark.parametrize(
    "group",
    [
        "fitcheck, Tesla T4",
        "PEFT MetaMathQA, L40S",
        pytest.param(UNSLOTH, marks=pytest.mark.slow),  # each row is a search
    ],
)
def test_page_shows_what_is_predicted_today(group: str) -> None:
    section = PAGE.split(f"## {group}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| [")]
    rows = [row for row in POINTS if row.group == group]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        figure = row.predicted[row.headline]
        assert row.what in line and row.source in line
        assert ("does not fit" if figure == 0 else f" {figure:,.0f} (") in line, (
            "run bench.accuracy"
        )


def test_every_row_has_a_public_source() -> None:
    rows = load_rows()
    assert len(rows) >= 60
    assert [row.what for row in rows if not re.match(r"https://[\w.]+/", row.source)] == []
    assert {name for row in rows for name in row.measured} <= set(TITLES)


def test_every_miss_on_the_page_has_a_reason() -> None:
    named = re.findall(r"^- \*\*.+\*\* \(.+\): [^;]+; (.*)\.$", PAGE, re.MULTILINE)
    assert len(named) >= len(misses([row for row in POINTS if row.group != UNSLOTH]))
    assert all(len(reason) > 20 for reason in named)


def test_a_run_out_of_memory_that_is_predicted_to_fit_is_a_miss() -> None:
    row = Row("g", "w", "https://x", "8GB", {"longest_tokens": 0}, {})
    row.__dict__["predicted"] = {"longest_tokens": 500}
    assert misses([row]) == [row]
    assert headline_errors([row]) == []
    row.__dict__["predicted"] = {"longest_tokens": 0}
    assert misses([row]) == []


def test_another_tools_error_is_shown_beside_ours() -> None:
    row = Row(
        "g", "w", "https://x", "8GB", {"process_mib": 1000}, {}, {"rival": {"process_mib": 800}}
    )
    row.__dict__["predicted"] = {"process_mib": 1010.0}
    text = page([row])
    assert "| g | 1 | 1 | 1.0% | +1.0% | rival 20.0%, -20.0% |" in text
    assert "1,010 (+1.0%) | 800 (-20.0%)" in text
