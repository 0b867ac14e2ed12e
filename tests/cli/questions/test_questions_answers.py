"""Command line and Python API give the same answers, and the published schemas describe them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import vram_search
from tests.cli.questions.conftest import Ask, Search
from vram_search.answers.results import Results
from vram_search.answers.schemas import ANSWERS
from vram_search.answers.trial import TrialAnswer
from vram_search.store import TrialRecord
from vram_search.units import GIB

SCHEMAS = Path(__file__).resolve().parents[3] / "docs" / "schema"

QUESTIONS: list[tuple[str, list[str], Callable[[Results], Any]]] = [
    ("best", ["best"], lambda r: r.best()),
    ("best", ["best", "--limit", "9 GiB"], lambda r: r.best(limit=9 * GIB)),
    ("best", ["best", "--time-limit", "30m"], lambda r: r.best("night", time_limit=1800)),
    ("best", ["best", "--card", "rtx-4090-24gb"], lambda r: r.best(card="rtx-4090-24gb")),
    ("top", ["top", "-n", "2"], lambda r: r.top(rows=2)),
    ("top", ["top", "--all"], lambda r: r.trials()),
    ("show", ["show", "best"], lambda r: r.show("best")),
    ("show", ["show", "9"], lambda r: r.show(9)),
    ("compare", ["compare", "0", "1"], lambda r: r.compare(0, 1)),
    ("compare", ["compare", "0", "8"], lambda r: r.compare(0, 8)),
    ("pareto", ["pareto"], lambda r: r.pareto()),
    ("importance", ["importance"], lambda r: r.importance()),
    ("why", ["why", "8"], lambda r: r.why(8)),
    ("why", ["why", "best"], lambda r: r.why("best")),
]


@pytest.fixture
def recorded(search: Search) -> Search:
    """Eight complete trials, one that ran out of memory, one that runs."""
    for rank, loss, size in zip((8, 16) * 4, range(8), range(12, 4, -1), strict=True):
        changed = {"lora_rank": rank, "lora_alpha": 2 * rank}
        shifts = [loss / 4, loss / 2, 0.1, 0.0]
        search.add(gib=size, shifts=shifts, hyperparameters=changed, seconds={"train": 30})
    error = {"stage": "train", "step": 3, "message": "no memory", "batch_shape": [4, 512]}
    search.add("oom", None, 13, error=error, measured={"an_older_version": {"knew": None}})
    search.add(None, retry_of=8)
    return search


def assert_valid(name: str, answer: Any) -> None:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(answer)


@pytest.mark.parametrize(
    ("name", "words", "question"), QUESTIONS, ids=[" ".join(words) for _, words, _ in QUESTIONS]
)
def test_answer_is_the_same_everywhere_and_as_the_schema_says(
    recorded: Search, ask: Ask, name: str, words: list[str], question: Callable[[Results], Any]
) -> None:
    printed = ask(*words, "--json").json
    with vram_search.open_store() as results:
        assert question(results).as_dict() == printed
    assert printed["schema_version"] == 1
    assert_valid(name, printed)


def test_studies_are_the_same_everywhere(recorded: Search, ask: Ask) -> None:
    printed: Any = ask("studies", "--json").json
    with vram_search.open_store() as results:
        assert [summary.as_dict() for summary in results.studies()] == printed
    assert printed[0]["outcomes"]["complete"] == 8
    assert_valid("studies", printed)


def test_estimate_is_the_same_everywhere(ask: Ask) -> None:
    options = ["--model", "qwen2.5-0.5b", "--card", "rtx-4060-8gb"]
    printed = ask("estimate", *options, "--batch", 64, "--json").json
    answer = vram_search.estimate("qwen2.5-0.5b", "rtx-4060-8gb", batch=64)
    assert answer.as_dict() == printed
    assert answer.required_bytes == printed["plans"][0]["required_bytes"]
    assert answer.fits is False and answer.plan.changes[0].saved_bytes > 0
    assert_valid("estimate", printed)


def test_recipe_of_an_unknown_model_is_as_the_schema_says(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("model_name_or_path: /path/to/model\nlora_rank: 16\n", encoding="utf-8")
    printed = ask("estimate", file, "--json").json
    assert vram_search.estimate_file(file).as_dict() == printed
    assert_valid("estimate", printed)


def test_estimate_of_a_study_is_the_same_everywhere(
    ask: Ask, write_study: Callable[..., Path]
) -> None:
    file = write_study()
    printed = ask("estimate", file, "--json").json
    assert vram_search.estimate_file(file).as_dict() == printed
    assert printed["study"] == "tiny"
    assert_valid("estimate", printed)


def test_comparison_of_estimates_is_as_the_schema_says(
    ask: Ask, write_study: Callable[..., Path]
) -> None:
    file = write_study()
    assert_valid("estimate-compare", ask("estimate", "--compare", file, file, "--json").json)


def test_fit_is_the_same_everywhere(ask: Ask) -> None:
    options = ["--model", "qwen2.5-0.5b", "--card", "rtx-4060-8gb", "--cutoff-len", "2048"]
    printed = ask("fit", *options, "--json").json
    answer = vram_search.fit("qwen2.5-0.5b", "rtx-4060-8gb", cutoff_len=2048)
    assert answer.as_dict() == printed
    assert [row.cutoff_len for row in answer.largest_lora_rank] == [1024, 2048]
    assert_valid("fit", printed)


def test_dry_run_is_the_same_everywhere(ask: Ask, write_study: Callable[..., Path]) -> None:
    file = write_study()
    printed = ask("run", file, "--dry-run", "--json").json
    assert vram_search.plan_study(vram_search.load_study(file)).as_dict() == printed
    assert printed["train_rows"] == 20
    assert_valid("run-dry-run", printed)


def test_trial_has_every_recorded_field_and_no_database_id() -> None:
    """A new column has to be described, or it is left out on purpose."""
    recorded = {field.name for field in fields(TrialRecord)} - {"id", "study_id", "damaged"}
    copies = {"predicted_required_bytes", "measured_required_bytes"}
    left_out = {"worker_id", "objective", "objective_value"}  # shown as value_name and value
    assert recorded - copies - left_out == {field.name for field in fields(TrialAnswer)} - {
        "value",
        "value_name",
        "required_bytes",
        "required_bytes_origin",
        "total_seconds",
    }


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_has_a_published_schema(name: str) -> None:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    kinds = [schema, *schema.get("$defs", {}).values()]
    assert any(kind.get("properties", {}).get("schema_version") for kind in kinds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"card": "no such card"}, "no card 'no such card'"),
        ({"model": "no-such-model"}, "no model 'no-such-model'"),
        ({"lora_rank": 0}, "lora_rank 0 is out of range"),
        ({"optim": "adam"}, "no optimizer 'adam'"),
        ({"lora_target": "wo"}, "lora_target 'wo'"),
    ],
)
def test_wrong_argument_is_refused_by_its_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vram_search.InputError, match=message):
        vram_search.estimate(**{"model": "qwen2.5-0.5b", "card": "rtx-4060-8gb", **options})


def test_missing_database_is_a_store_error(home: Path) -> None:
    with pytest.raises(vram_search.StoreError):
        vram_search.open_store(home / "nothing.db")
