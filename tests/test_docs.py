"""What the documentation says can be done can be done."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
import pydantic
import pytest
from click.testing import CliRunner

from vram_search.cli.main import COMMANDS, cli
from vram_search.store import Evaluation, StepLoss, TrialRecord
from vram_search.units import format_bytes

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "bench").rglob("*.md")),
]
README = ROOT / "README.md"
EXPLAINED = ROOT / "docs" / "td-010-explained.md"
LEFT_OUT = "...\n"
MEASURED = ROOT / "configs" / "td-010" / "measured.jsonl"


def commands(page: Path) -> list[list[str]]:
    """Every `vram-search ...` line of a page's shell blocks."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("vram-search "):
                found.append(shlex.split(line, comments=True)[1:])
    return found


@pytest.mark.parametrize("words", commands(ROOT / "README.md"), ids=" ".join)
def test_readme_command_is_understood(words: list[str]) -> None:
    assert words[0] in COMMANDS
    context = click.Context(cli)
    command = cli.get_command(context, words[0])
    assert command is not None
    command.make_context(words[0], words[1:], parent=context)  # raises on an unknown option


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True
    )
    stale = done.stdout.removeprefix("stale: ").replace(",", "").split()
    if tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 13):
        # Older releases leave out the descriptions of two answers' parts.
        stale = [page for page in stale if not page.startswith("schema/")]
    assert not stale, f"stale: {stale}; run `make docs`"


def test_every_key_of_a_study_file_has_a_meaning() -> None:
    page = (ROOT / "docs" / "study-file.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| *(.*?) \|$", page, re.MULTILINE)
    assert ("card.name", "slug, as in configs/cards/") in rows
    assert [key for key, meaning in rows if not meaning] == []


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z-]+)\b", (ROOT / "README.md").read_text("utf-8")))
    promised = {"demo", "test", "lint", "types", "docs", "wheel-check", "gpu", "bench"}
    for target in named | promised:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_readme_study_is_a_study(tmp_path: Path) -> None:
    from vram_search.spec import load_study

    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "study.yaml").write_text(block)
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    assert load_study(tmp_path / "study.yaml").study == "my-model"


def test_fields_of_a_shown_trial_are_documented() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    (row,) = re.findall(r"^\| `show` \|.*$", page, re.MULTILINE)
    hidden = {"damaged", "id", "study_id"}
    hidden |= {"predicted_required_bytes", "measured_required_bytes"}
    for record in (TrialRecord, StepLoss, Evaluation):
        names = {field.name for field in dataclasses.fields(record)} - hidden
        assert names <= set(re.findall(r"`(\w+)`", row)), record.__name__


class Shown(NamedTuple):
    """Shell commands of a page, and the output or the table that follows them."""

    commands: str
    output: str
    table: list[list[str]]
    """Rows of cells, the header first."""


def shown(page: Path) -> list[Shown]:
    found = []
    for commands, output, table in re.findall(
        r"```sh\n((?:vram-search .*\n)+)```\n\n(?:```text\n((?:[^`].*\n|\n)+)```|((?:\|.*\n)+))",
        page.read_text(encoding="utf-8"),
    ):
        lines = [line for line in table.splitlines() if not line.startswith("| --- ")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        found.append(Shown(commands.strip(), output, cells))
    return found


def printed(command: str) -> str:
    result = CliRunner().invoke(cli, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    return result.output


def answers(commands: str) -> list[dict[str, Any]]:
    """The estimates that the commands print as JSON."""
    found = []
    for command in commands.splitlines():
        text = printed(command)
        lines = [text] if command.endswith("--json") else text.splitlines()
        for answer in map(json.loads, lines):
            found += answer.get("plans", [answer])
    return found


def columns(header: list[str], wanted: str) -> dict[int, str]:
    """Columns whose header is `wanted` with the name of a field in backticks."""
    named = ((place, re.fullmatch(rf"{wanted}`(\w+)`", name)) for place, name in enumerate(header))
    return {place: match[1] for place, match in named if match}


EXPLAINED_OUTPUTS = [part for part in shown(EXPLAINED) if part.output]
EXPLAINED_TABLES = [part for part in shown(EXPLAINED) if part.table]
README_OUTPUTS = [part for part in shown(README) if part.output]


def of_optimizers(part: Shown) -> bool:
    return "optimizers.jsonl" in part.commands


@pytest.fixture
def in_checkout(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands as the page has them, without calibrations of this machine."""
    monkeypatch.chdir(ROOT)


def test_pages_show_commands_with_their_outputs_and_tables() -> None:
    assert (len(EXPLAINED_OUTPUTS), len(EXPLAINED_TABLES), len(README_OUTPUTS)) == (2, 5, 2)


@pytest.mark.usefixtures("in_checkout")
@pytest.mark.parametrize("part", EXPLAINED_OUTPUTS + README_OUTPUTS, ids=lambda part: part.commands)
def test_page_shows_what_its_command_prints(part: Shown) -> None:
    output = printed(part.commands)
    for piece in part.output.split(LEFT_OUT):
        assert piece in output
    assert LEFT_OUT in part.output or part.output == output


@pytest.mark.usefixtures("in_checkout")
@pytest.mark.parametrize(
    "part",
    [part for part in EXPLAINED_TABLES if not of_optimizers(part)],
    ids=lambda part: part.commands.splitlines()[0],
)
def test_explained_report_tabulates_what_its_commands_print(part: Shown) -> None:
    header, *rows = part.table
    fields = columns(header, "")
    assert fields
    for row, answer in zip(rows, answers(part.commands), strict=True):
        for place, field in fields.items():
            assert row[place] == format_bytes(answer[field]), (row[0], field)


@pytest.mark.usefixtures("in_checkout")
def test_explained_report_says_which_of_the_suspects_fit_the_card() -> None:
    (part,) = [part for part in EXPLAINED_TABLES if "what-if.jsonl" in part.commands]
    header, *rows = part.table
    (limit,) = re.findall(r"fits (.+ GiB)", header[-1])
    (plan,) = answers(EXPLAINED_OUTPUTS[0].commands + " --json")
    assert limit == format_bytes(plan["budget_bytes"])
    for row, answer in zip(rows, answers(part.commands), strict=True):
        needed = answer["required_bytes"] * (1 + answer["margin"])
        assert row[-1] == ("yes" if needed <= plan["budget_bytes"] else "**no**"), row[0]


@pytest.mark.usefixtures("in_checkout")
def test_explained_report_counts_the_states_of_both_optimizers() -> None:
    (part,) = filter(of_optimizers, EXPLAINED_TABLES)
    found = answers(part.commands)
    for row, plain, eight_bit in zip(part.table[1:], found[::2], found[1::2], strict=True):
        states, small = (answer["parts"]["optimizer"] for answer in (plain, eight_bit))
        figures = (plain["parts"]["adapter"], states, small, states - small)
        assert row[1:] == [f"{figure:,}" for figure in figures], row[0]


def test_explained_report_shows_bytes_that_were_measured() -> None:
    (part,) = [part for part in EXPLAINED_TABLES if MEASURED.name in part.commands]
    runs = [json.loads(line) for line in MEASURED.read_text(encoding="utf-8").splitlines()]
    truth = (ROOT / "tests" / "fixtures" / "vram_truth.jsonl").read_text(encoding="utf-8")
    assert all(run in [json.loads(line) for line in truth.splitlines()] for run in runs)
    header, *rows = part.table
    fields = columns(header, "measured ")
    assert len(fields) == 3
    for row, run in zip(rows, runs, strict=True):
        for place, field in fields.items():
            assert row[place] == format_bytes(run[field]), (row[0], field)
