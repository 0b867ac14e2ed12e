"""The answers that evaluations generate if the objective is a score of answers."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

from vram_search.spec.base import Count, Spec
from vram_search.spec.objective import FUNCTION, OBJECTIVES
from vram_search.spec.paths import absolute_path

MOST_ROWS = 10_000
MOST_NEW_TOKENS = 8192


class AnswersSpec(Spec):
    """How many answers an evaluation generates, and how long they are; greedy decoding."""

    rows: Annotated[Count, Field(le=MOST_ROWS)] = Field(
        default=32, description="first evaluation rows whose last answer is generated and scored"
    )
    max_new_tokens: Annotated[Count, Field(le=MOST_NEW_TOKENS)] = Field(
        default=128, description="longest answer; prompt and answer stay within eval_cutoff_len"
    )


class AnswerFunction(Spec):
    """A function of the study's own file: `function(answer, reference) -> number from 0 to 1`."""

    file: str
    function: str


def _checked(value: str, info: ValidationInfo) -> str:
    """Checks an objective; a function's file gets its absolute path. Runs no code."""
    if value in OBJECTIVES:
        return value
    match = FUNCTION.fullmatch(value)
    if match is None:
        raise ValueError(
            f"not an objective; there are {', '.join(OBJECTIVES)}, and FILE.py:function of the "
            "study's folder"
        )
    path = absolute_path(match["file"], info)
    folder = absolute_path(".", info)
    if path.parent != folder:
        raise ValueError(f"code is taken from the study's own folder only ({folder})")
    if not path.is_file():
        raise ValueError(f"there is no file {path.name} in the study's folder ({folder})")
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read as Python: {error}") from None
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if match["function"] not in names:
        raise ValueError(f"{path.name} defines no function {match['function']}")
    return f"{match['minimise'] or ''}{path}:{match['function']}"


ObjectiveKey = Annotated[str, Field(strict=True), AfterValidator(_checked)]


def answer_function(objective: str) -> AnswerFunction | None:
    """Returns the function that a checked objective names; None for the others."""
    match = FUNCTION.fullmatch(objective)
    return match and AnswerFunction(file=match["file"], function=match["function"])


def objective_identity(objective: str) -> dict[str, str]:
    """Returns what defines an objective: its key without folders, and a hash of its code."""
    match = FUNCTION.fullmatch(objective)
    if match is None:
        return {"objective": objective}
    file = re.split(r"[\\/]", match["file"])[-1]
    return {
        "objective": f"{match['minimise'] or ''}{file}:{match['function']}",
        "objective_code": hashlib.sha256(Path(match["file"]).read_bytes()).hexdigest()[:16],
    }
