"""Answers are generated in batches and scored; the objective follows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vram_search.errors import VramSearchError
from vram_search.protocol import AnswersJob, TrialJob
from vram_search.spec.answers import AnswerFunction
from vram_search.train.answers import AnswerScorer, exact_match, rouge_l, scorer
from vram_search.train.run import EncodedDataset, Trial


def make_answers(**changes: Any) -> AnswersJob:
    values: dict[str, Any] = {
        "metric": "rouge_l",
        "function": None,
        "minimise": False,
        "rows": 4,
        "max_new_tokens": 6,
        "total_tokens": 64,
        "batch_size": 3,
        "date": "2024-07-26",
        **changes,
    }
    return AnswersJob(**values)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("The cat!", "the dog", 0.5),
        ("police killed the gunman", "police kill the gunman", 0.75),  # Lin 2004, section 3.1
        ("the gunman kill police", "police kill the gunman", 0.5),
        ("", "", 1.0),
        ("", "yes", 0.0),
        ("Größe zählt", "größe zählt", 1.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(
    answer: str, reference: str, score: float
) -> None:
    assert rouge_l(answer, reference) == pytest.approx(score)


def test_exact_match_ignores_white_space_alone() -> None:
    assert exact_match("a  b\n", "a b") == 1
    assert exact_match("A b", "a b") == 0


def test_batches_give_the_answers_of_single_rows(base: Any, encoded: EncodedDataset) -> None:
    def answers(batch_size: int) -> list[str]:
        job = make_answers(batch_size=batch_size)
        return AnswerScorer(job, encoded.eval, encoded.tokenizer, job.date).answers(
            base, lambda shape: None
        )

    assert answers(3) == answers(1)
    assert len(answers(3)) == 4


def test_the_kept_checkpoint_has_the_best_score_and_not_the_lowest_loss(
    base: Any, encoded: EncodedDataset, make_job: Callable[..., TrialJob], tmp_path: Path
) -> None:
    file = tmp_path / "score.py"
    file.write_text(
        "calls = []\n"
        "def falling(answer, reference):\n"
        "    calls.append(answer)\n"
        "    return 0.9 if len(calls) <= 4 else 0.2\n"
    )
    named = AnswerFunction(file=str(file), function="falling")
    job = make_job(answers=make_answers(metric="score.py:falling", function=named))
    events: list[Any] = []
    finished = Trial(base, encoded, job, events.append, lambda: False).run()
    assert finished.outcome == "complete", finished.message
    first, last = (event for event in events if event.event == "evaluated")
    assert (first.answer_error, last.answer_error) == pytest.approx((0.1, 0.8))
    assert last.eval_loss < first.eval_loss
    assert finished.best_step == first.step
    assert len(first.answer_errors) == 4


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def score(answer, reference):\n    return 2\n", "returned 2"),
        ("def score(answer, reference):\n    return 1 / 0\n", "ZeroDivisionError"),
        ("raise ImportError('no numpy')\ndef score(a, b): ...\n", "ImportError: no numpy"),
    ],
)
def test_a_function_that_fails_is_named_with_its_remedy(
    code: str, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(code)
    job = make_answers(function=AnswerFunction(file=str(file), function="score"))
    with pytest.raises(VramSearchError, match=words):
        scorer(job)("an answer", "a reference")
