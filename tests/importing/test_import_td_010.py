"""The report's experiments as data, and the page that is generated from them."""

from __future__ import annotations

import importlib.util
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from vram_search.cli.main import cli
from vram_search.importing.table import load_table
from vram_search.spec import load_study

ROOT = Path(__file__).resolve().parents[2]
DOCS, STUDIES = ROOT / "docs", ROOT / "studies" / "td-010"
RUNS = {str(run.provenance["run"]): run for run in load_table(STUDIES / "experiments.csv")}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("td_010", DOCS / "td_010.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["td_010"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("run", "outcome", "eval_loss", "trainable"),
    [
        ("TD-010v3 research", "complete", 1.0026, 1_843_200),
        ("TD-010v3 ultra-lite", "oom", None, 5_271_552),
        ("TD-010v2", "complete", 0.9358, 9_232_384),
        ("Qwen2-7B of 26 November", "complete", None, None),
    ],
)
def test_experiments_hold_the_reports_figures(
    run: str, outcome: str, eval_loss: float | None, trainable: int | None
) -> None:
    result = RUNS[run].result
    assert (result.outcome, result.eval_loss) == (outcome, eval_loss)
    assert result.trainable_parameters == trainable
    assert ("eval_loss" in RUNS[run].provenance["unknown"]) == (eval_loss is None)


def test_what_the_report_does_not_say_is_unknown() -> None:
    assert len(RUNS) == 4
    for run in RUNS.values():
        assert {"learning_rate", "lora_alpha", "batch_size", "seed"} <= set(
            run.provenance["unknown"]
        )


def test_page_and_plot_are_current(generator: ModuleType, home: Path) -> None:
    for name, text in generator.pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"{name}: run `make docs`"


def test_page_is_the_same_on_a_calibrated_machine(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the page looked for a calibration of this machine")

    monkeypatch.setattr("vram_search.estimate.calibration.load_calibration", refuse)
    generator.page()


def test_plot_shows_every_run_inside_its_frame(generator: ModuleType) -> None:
    root = ET.fromstring(generator.plot())
    names = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    points = [element for element in root.iter() if element.tag.endswith("circle")]
    assert len(points) == len(RUNS)
    for run in RUNS:
        assert any(name.startswith(f"{run}: ") for name in names)
    for point in points:
        assert 0 < float(point.attrib["cx"]) < generator.WIDTH
        assert 0 < float(point.attrib["cy"]) < generator.BOTTOM


def test_page_and_explanation_give_the_same_bytes(generator: ModuleType) -> None:
    explained = (DOCS / "td-010-explained.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"\| predicted for the report's card .*\n\|.*\n((?:\|.*\n)+)", explained)
    rows = [[cell.strip() for cell in line.split("|")] for line in block.splitlines()]
    required = {row[3] for row in rows}
    assert len(required) == 5
    for size in required:
        assert f"| {size} |" in generator.page(), size
    for row in rows[2:]:
        assert f"| {row[5]} |" in generator.page(), row[1]


@pytest.mark.parametrize("letter", "abc")
def test_variant_is_a_study_that_runs(home: Path, letter: str, rows_are_not_encoded: None) -> None:
    file = STUDIES / f"variant-{letter}.yaml"
    assert load_study(file).study == f"td-010-variant-{letter}"
    done = CliRunner().invoke(cli, ["run", str(file), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "fits" in done.output and "DOES NOT FIT" not in done.output
    assert not home.exists()
