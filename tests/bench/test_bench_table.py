"""Rows of the table: what is read, and what is refused in which words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.search.table import PUBLISHED, load_table, read_tables
from tests.bench.conftest import config_of, row_of, table_of
from vram_search.errors import InputError


def written(tmp_path: Path, *rows: object) -> Path:
    file = tmp_path / "table.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_rows_of_several_files_are_grouped_by_task_and_hyperparameters(tmp_path: Path) -> None:
    first = written(tmp_path, row_of(), row_of(seed=1, config="c0b"), row_of(lora_rank=16))
    second = tmp_path / "second.jsonl"
    second.write_text(json.dumps(row_of(task="another", unknown=1)), encoding="utf-8")
    tables = read_tables([first, second])
    assert [table.task for table in tables] == ["another", "made up"]
    assert [len(config.rows) for config in tables[1].configs] == [2, 1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora_target": "qk"}, "line 1, lora_target"),
        ({"learning_rate": -1e-4}, "line 1, learning_rate"),
        ({"optim": "muon"}, "line 1, optim"),
        ({"eval_loss": [1.0, 2.0]}, "2 values of eval_loss at 4 steps"),
        ({"eval_steps": [30, 60, 90, 91]}, "eval_steps ascend from 0"),
        ({"eval_steps": [0, 60, 30, 90]}, "eval_steps ascend from 0"),
        ({"eval_steps": [0, 30, 60, 91]}, "to at most steps"),
        ({"train_seconds": 0}, "line 1, train_seconds"),
        ({"max_allocated_bytes": None}, "line 1, max_allocated_bytes"),
    ],
)
def test_faulty_row_is_named_by_line_and_field(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_tables([written(tmp_path, row_of(**changes))])
    assert words in caught.value.message


def test_faults_of_all_lines_are_reported_together(tmp_path: Path) -> None:
    file = written(tmp_path, "{no json", row_of(), row_of(seed="x"))
    with pytest.raises(InputError) as caught:
        read_tables([file])
    assert "line 1" in caught.value.message
    assert "line 3, seed" in caught.value.message


def test_file_that_is_empty_or_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no rows"):
        read_tables([written(tmp_path)])
    with pytest.raises(InputError, match="cannot be read"):
        read_tables([tmp_path / "none.jsonl"])


def test_loss_that_is_not_finite_is_no_best_checkpoint(tmp_path: Path) -> None:
    file = written(tmp_path, row_of(eval_loss=[3.0, 2.0, None, float("nan")]))
    (config,) = read_tables([file])[0].configs
    assert config.loss() == 2.0
    assert config.last_loss == float("inf")


def test_value_is_the_best_evaluated_checkpoint_and_the_mean_over_seeds() -> None:
    config = config_of({}, {"seed": 1, "eval_loss": [3.0, 2.0, 1.7, 1.8]})
    assert config.loss() == pytest.approx(1.6)
    assert config.loss((1 / 3,)) == pytest.approx(1.7), "at 1/3 and the end only"
    assert config.last_loss == pytest.approx(1.7)


def test_best_of_the_table_is_the_best_that_fits() -> None:
    losses = [3.0, 1.2, 1.1, 1.0]
    table = table_of(
        {}, {"lora_rank": 16, "max_allocated_bytes": 5000, "eval_loss": losses}, {"lora_rank": 32}
    )
    assert table.best(5000).loss() == 1.0
    assert table.best(2000).loss() == 1.5
    with pytest.raises(InputError, match="no configuration"):
        table.best(10)


def test_limit_leaves_the_asked_share_out() -> None:
    table = table_of(*({"lora_rank": n, "max_allocated_bytes": 100 * n} for n in range(1, 11)))
    assert table.limit_bytes(0.2) == 800
    assert table.limit_bytes(0.0) == 1000


def test_seed_noise_is_pooled_over_repeated_configurations() -> None:
    pair = config_of({}, {"seed": 1, "eval_loss": [3.0, 2.0, 1.52, 1.6]})
    table = table_of({"lora_rank": 4})
    assert table.seed_noise() is None
    noise = type(table)("made up", (*table.configs, pair)).seed_noise()
    assert noise == pytest.approx(0.02 / 2**0.5)


def test_published_table_is_loaded_by_name() -> None:
    assert len(load_table("triz").configs) == 150
    with pytest.raises(InputError, match="no table 'alpaca'") as caught:
        load_table("alpaca")
    assert "toolcalls, triz" in caught.value.remedy


def test_code_of_the_datasheet_runs_from_the_checkout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(PUBLISHED.parents[2])
    text = (PUBLISHED / "DATASHEET.md").read_text(encoding="utf-8")
    ours, plain = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(list(filter(None, ours.splitlines()))) == 3
    exec(ours, {})
    found: dict[str, Any] = {}
    exec(plain, found)
    assert capsys.readouterr().out.startswith("150 4.1")
    assert {row["task"] for row in found["rows"]} == {"triz"}
