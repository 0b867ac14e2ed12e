"""Imported runs show in the commands that read results, with where they came from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.importing.conftest import ADAPTER, WriteRun, trainer_log
from vram_search.cli.main import cli
from vram_search.errors import InputError
from vram_search.spec import load_study
from vram_search.store import open_store, sqlite_url
from vram_search.worker.open_study import open_study
from vram_search.worker.prepare import prepare


def printed(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, arguments)
    if isinstance(result.exception, InputError):
        assert result.exception.exit_code == code
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def imported(home: Path, write_run: WriteRun) -> Path:
    """A run with logs, and one of which the adapter alone is left."""
    run = write_run("with-logs", {"trainer_log.jsonl": trainer_log()})
    write_run("adapter-alone", {"adapter_config.json": ADAPTER, "adapter_model.bin": b"w"})
    printed("import", str(run.parent))
    return run


@pytest.mark.parametrize("command", [["top", "--all"], ["show", "0"], ["compare", "0", "1"]])
def test_escape_sequences_in_names_do_not_reach_the_terminal(
    home: Path, write_run: WriteRun, command: list[str]
) -> None:
    hostile = "a\x1b[2J\x1b]0;title\x07\x9b31m"
    rows = {**ADAPTER, "base_model_name_or_path": f"{hostile}/model"}
    for name in (hostile, f"{hostile}b"):
        run = write_run(name, {"adapter_config.json": rows, "trainer_log.jsonl": trainer_log()})
    (run.parent / hostile / "trainer_log.jsonl").write_text("")
    printed("import", str(run.parent))
    text = printed(*command)
    assert "a" in text
    assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text) is None


def test_top_marks_imported_runs_and_leaves_unknown_cells(imported: Path) -> None:
    table = printed("top", "--all")
    assert "study imported (imported runs): 2 complete" in table
    assert "with-logs" in table and "adapter-alone" in table
    assert "1.1973" in table and "?" in table


def test_best_names_where_its_run_came_from(imported: Path) -> None:
    lines = printed("best")
    assert "trial 1, eval_loss 1.1973 (step 50 of 51)" in lines
    assert str(imported) in re.sub(r"\n +", "", lines)
    assert max(map(len, lines.splitlines())) <= 80
    assert "run with-logs of LLaMA-Factory, no search" in lines


def test_show_says_what_is_unknown_and_why(imported: Path) -> None:
    lines = printed("show", "0")
    assert "no logs: neither trainer_log.jsonl" in lines
    assert "eval_loss" in lines.split("unknown  ")[1].splitlines()[0]
    assert "seed, data" not in lines and "None" not in lines


def test_show_says_nothing_of_bits_that_are_unknown(imported: Path) -> None:
    lines = printed("show", "1")
    assert "per token, 1.1973 at its own cutoff_len" in " ".join(lines.split())
    assert "bits per byte" not in lines


def test_table_by_hand_shows_too(home: Path) -> None:
    printed("import", "studies/td-010/experiments.csv", "--study", "td-010-report")
    assert "TD-010v2" in printed("top", "--study", "td-010-report")
    assert "vram_bytes 2.89 GiB" in printed("show", "0", "--study", "td-010-report")
    assert "eval_loss 0.9358" in printed("best", "--study", "td-010-report")


def test_imported_run_is_not_exported(imported: Path) -> None:
    assert "was imported" in printed("export", "best", code=2)


def test_imported_study_cannot_be_run(
    imported: Path, home: Path, write_study: Callable[..., Path]
) -> None:
    prepared = prepare(load_study(write_study(study="imported")), lambda text: None)
    store = open_store(sqlite_url(home / "vram-search.db"), create=False)
    with pytest.raises(InputError, match="study imported holds imported runs: it cannot be run"):
        open_study(store, prepared, accept_changes=True)
