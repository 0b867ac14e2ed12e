"""Generates the answers of evaluation rows in batches, and scores them against the references."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vram_search.errors import VramSearchError
from vram_search.protocol import AnswersJob
from vram_search.spec.answers import AnswerFunction
from vram_search.spec.objective import EXACT_MATCH
from vram_search.train.device import compute_dtype
from vram_search.train.examples import EncodedExample
from vram_search.train.model import evaluation_mode
from vram_search.train.stop_tokens import stop_tokens

Score = Callable[[str, str], float]
"""Scores an answer against its reference: 0 to 1."""


@dataclass(frozen=True)
class Question:
    """The tokens before a row's last answer, and that answer as text."""

    prompt: tuple[int, ...]
    reference: str


class AnswerScorer:
    """Generates and scores the answers of one trial's evaluations.

    Args:
        date: date for templates that put today's into the prompt.
    """

    def __init__(
        self, job: AnswersJob, rows: Sequence[EncodedExample], tokenizer: Any, date: str
    ) -> None:
        self.job, self.tokenizer = job, tokenizer
        self.questions = [_question(row, tokenizer, job) for row in rows[: job.rows]]
        self.score = scorer(job)
        names = stop_tokens(tokenizer, date)
        self.stops = [tokenizer.convert_tokens_to_ids(name) for name in names]

    def errors(
        self, model: Any, on_batch: Callable[[tuple[int, int]], None] = lambda shape: None
    ) -> list[float]:
        """Returns each row's error: 1 - its score, or the score if the objective minimises it.

        Args:
            on_batch: called with each batch's shape before it runs: rows, tokens of the longest.

        Raises:
            VramSearchError: the study's function fails or returns no number from 0 to 1.
        """
        answers = self.answers(model, on_batch)
        scores = [
            self.score(answer, question.reference)
            for answer, question in zip(answers, self.questions, strict=True)
        ]
        return scores if self.job.minimise else [1 - score for score in scores]

    def answers(self, model: Any, on_batch: Callable[[tuple[int, int]], None]) -> list[str]:
        """Returns the most likely answers (greedy), in the order of the rows."""
        order = sorted(range(len(self.questions)), key=lambda i: -len(self.questions[i].prompt))
        found: dict[int, str] = {}
        with evaluation_mode(model), torch.no_grad(), _autocast(model):
            for start in range(0, len(order), self.job.batch_size):
                chosen = order[start : start + self.job.batch_size]
                prompts = [self.questions[i].prompt for i in chosen]
                on_batch((len(prompts), len(prompts[0]) + self.job.max_new_tokens))
                found |= dict(zip(chosen, self._written(model, prompts), strict=True))
        return [found[i] for i in range(len(self.questions))]

    def _written(self, model: Any, prompts: Sequence[tuple[int, ...]]) -> list[str]:
        here, pad = next(model.parameters()).device, self.tokenizer.pad_token_id
        longest = max(map(len, prompts))
        missing = [longest - len(prompt) for prompt in prompts]
        ids = [[pad] * m + list(p) for m, p in zip(missing, prompts, strict=True)]
        mask = [[0] * m + [1] * len(p) for m, p in zip(missing, prompts, strict=True)]
        written = model.generate(
            input_ids=torch.tensor(ids, device=here),
            attention_mask=torch.tensor(mask, device=here),
            max_new_tokens=self.job.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
            pad_token_id=pad,
            eos_token_id=self.stops or None,
        )
        texts = self.tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
        return [text.strip() for text in texts]


def scorer(job: AnswersJob) -> Score:
    """Returns the score of an objective; a function's file is imported here and nowhere else.

    Raises:
        VramSearchError: the file cannot be imported.
    """
    if job.function is not None:
        return _own_score(job.function)
    return exact_match if job.metric == EXACT_MATCH else rouge_l


def exact_match(answer: str, reference: str) -> float:
    """Returns 1 for equal texts; runs of white space count as one space."""
    return float(answer.split() == reference.split())


def rouge_l(answer: str, reference: str) -> float:
    """Returns ROUGE-L's F1: the longest common subsequence of words, in small letters (Lin 2004).

    The package rouge-score keeps ASCII letters and digits only; here words of every script count.
    """
    own, other = (re.findall(r"\w+", text.lower()) for text in (answer, reference))
    if not own or not other:
        return float(own == other)
    lengths = [0] * (len(other) + 1)
    for word in own:
        diagonal = 0
        for place, wanted in enumerate(other, 1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == wanted else max(above, lengths[place - 1])
            diagonal = above
    return 2 * lengths[-1] / (len(own) + len(other))


def _own_score(named: AnswerFunction) -> Score:
    file = Path(named.file)
    spec = importlib.util.spec_from_file_location("study_objective", file)
    assert spec is not None and spec.loader is not None, "it ends in .py"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function = getattr(module, named.function)
    except Exception as error:  # it is the user's code
        raise _failed(named, error) from None

    def score(answer: str, reference: str) -> float:
        try:
            value = float(function(answer, reference))
        except Exception as error:  # it is the user's code
            raise _failed(named, error) from None
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise VramSearchError(
                f"{file.name}:{named.function} returned {value:g} for the answer {answer[:40]!r}",
                "return a number from 0 to 1",
            )
        return value

    return score


def _failed(named: AnswerFunction, error: Exception) -> VramSearchError:
    words = f"{type(error).__name__}: {error}".splitlines()[0]
    return VramSearchError(
        f"the objective's function {Path(named.file).name}:{named.function} failed: {words}",
        "it takes (answer, reference) as texts and returns a number from 0 to 1",
    )


def _question(row: EncodedExample, tokenizer: Any, job: AnswersJob) -> Question:
    """Builds a row's question. A prompt that is too long keeps its end."""
    *before, (source, target) = row.turns
    ids = [token for turn in before for part in turn for token in part] + list(source)
    room = max(1, job.total_tokens - job.max_new_tokens)
    reference = tokenizer.decode(target, skip_special_tokens=True).strip()
    return Question(tuple(ids[-room:]), reference)


def _autocast(model: Any) -> Any:
    kind, dtype = next(model.parameters()).device.type, compute_dtype()
    return torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32)
