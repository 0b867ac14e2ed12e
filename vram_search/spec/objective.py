"""The objective of a study: the figure of a trial by which trials are ranked.

This module does not load pydantic: questions about a study are answered fast.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EVAL_LOSS = "eval_loss"
BITS_PER_BYTE = "bits_per_byte"
EXACT_MATCH = "exact_match"
ROUGE_L = "rouge_l"
ANSWER_ERROR = "answer_error"
"""The figure of an evaluation that generated answers: 1 - the mean score, so lower is better."""
FUNCTION = re.compile(r"(?P<minimise>minimise )?(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")
"""A study's own score: `FILE.py:function`, higher is better, or `minimise FILE.py:function`."""


@dataclass(frozen=True)
class Objective:
    """One objective; lower values are better.

    Attributes:
        name: its name in tables and in records of trials. A score that is maximised is lowered as
            `1 - score`, and its name says that.
        unit: the unit of its values, in words.
        short: its column heading in a terminal that is 80 characters wide.
        figure: the name of its value in records of evaluations.
    """

    name: str
    unit: str
    short: str
    figure: str

    @property
    def is_of_answers(self) -> bool:
        """True if evaluations generate answers."""
        return self.figure == ANSWER_ERROR

    def value_of(self, figures: Any) -> float | None:
        """Returns the objective's value of an evaluation; None if it was not computed."""
        value: float | None = getattr(figures, self.figure, None)
        return value


OBJECTIVES: Mapping[str, Objective] = {
    EVAL_LOSS: Objective(EVAL_LOSS, "nats per token", "eval", EVAL_LOSS),
    BITS_PER_BYTE: Objective(
        BITS_PER_BYTE, "bits per byte of the answers", "bits/B", BITS_PER_BYTE
    ),
    EXACT_MATCH: Objective("1 - exact_match", "share of wrong answers", "1-EM", ANSWER_ERROR),
    ROUGE_L: Objective("1 - rouge_l", "1 - mean ROUGE-L F1 of the answers", "1-RL", ANSWER_ERROR),
}
"""The objectives that need no code of the user, by the value of the study's key `objective`."""


def objective_of(key: str) -> Objective:
    """Returns the objective that a study's key `objective` states.

    Raises:
        KeyError: it states none.
    """
    match = FUNCTION.fullmatch(key)
    if match is None:
        return OBJECTIVES[key]
    file = re.split(r"[\\/]", match["file"])[-1]
    function = f"{file}:{match['function']}"
    return _of_function(function if match["minimise"] else f"1 - {function}")


def objective_named(name: str | None) -> Objective:
    """Returns an objective by its name; eval_loss for None and for an unknown name."""
    if name is not None and ".py:" in name:
        return _of_function(name)
    return next((one for one in OBJECTIVES.values() if one.name == name), OBJECTIVES[EVAL_LOSS])


def recorded_objective(spec: Mapping[str, Any]) -> Objective:
    """Returns the objective of a recorded study; records from before the key hold eval_loss."""
    identity = spec.get("identity")
    key = identity.get("objective") if isinstance(identity, Mapping) else None
    try:
        return objective_of(key or EVAL_LOSS)
    except (KeyError, TypeError):
        return OBJECTIVES[EVAL_LOSS]


def _of_function(name: str) -> Objective:
    short = "1-score" if name.startswith("1 - ") else "score"
    return Objective(name, "mean of the study's own function", short, ANSWER_ERROR)
