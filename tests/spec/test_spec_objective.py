"""The study's key `objective`: names, functions of the study's own folder, identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vram_search.errors import FaultyFileError
from vram_search.spec.load import load_study
from vram_search.spec.objective import objective_named, objective_of, recorded_objective
from vram_search.web.paths import parse_study

CODE = "raise SystemExit('validation runs no code')\ndef close(answer, reference): ...\n"


def test_a_score_is_lowered_as_one_minus_it_under_that_name() -> None:
    for key in ("exact_match", "rouge_l", "own.py:close"):
        objective = objective_of(key)
        assert objective.name == f"1 - {key}"
        assert objective.is_of_answers
        assert objective_named(objective.name) == objective
        assert recorded_objective({"identity": {"objective": key}}) == objective
    lowered = objective_of("minimise own.py:cost")
    assert lowered.name == "own.py:cost" and objective_named(lowered.name) == lowered
    assert not objective_of("eval_loss").is_of_answers


def test_function_of_the_studys_folder_is_accepted_without_running_it(
    write_study: Callable[..., Path],
) -> None:
    path = write_study(objective="minimise own.py:close")
    (path.parent / "own.py").write_text(CODE)
    study = load_study(path)
    assert study.ranked_by.name == "own.py:close"
    identity = study.identity()
    assert identity["objective"] == "minimise own.py:close"
    (path.parent / "own.py").write_text(CODE + "\n")
    assert load_study(path).identity()["objective_code"] != identity["objective_code"]


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("accuracy", "not an objective; there are eval_loss, bits_per_byte"),
        ("../own.py:close", "own folder only"),
        ("sub/own.py:close", "own folder only"),
        ("own.py:far", "defines no function far"),
        ("missing.py:close", "there is no file missing.py in the study's folder"),
        ("broken.py:close", "cannot be read as Python"),
    ],
)
def test_objective_that_cannot_be_used_is_one_message(
    objective: str, words: str, write_study: Callable[..., Path]
) -> None:
    path = write_study(objective=objective)
    (path.parent / "own.py").write_text(CODE)
    (path.parent / "broken.py").write_text("def close(")
    with pytest.raises(FaultyFileError, match=words):
        load_study(path)


def test_the_service_refuses_a_function(write_study: Callable[..., Path]) -> None:
    path = write_study(objective="own.py:close")
    (path.parent / "own.py").write_text(CODE)
    with pytest.raises(FaultyFileError, match="the service runs no code of a study"):
        parse_study(path.read_text(), [path.parent])


def test_a_study_of_losses_has_the_identity_of_before(write_study: Callable[..., Path]) -> None:
    assert not [key for key in load_study(write_study()).identity() if key.startswith("answers")]
