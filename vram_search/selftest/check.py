"""The result of one check of the self-test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["passed", "failed", "not possible here"]


@dataclass(frozen=True)
class Check:
    """One check and what it found.

    Attributes:
        sentence: what was found, or why the check is not possible here.
        remedy: what to do about a failure.
        figures: what was measured; bytes and seconds.
    """

    name: str
    state: State
    sentence: str
    remedy: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def passed(name: str, sentence: str, **figures: Any) -> Check:
    return Check(name, "passed", sentence, figures=figures)


def failed(name: str, sentence: str, remedy: str = "", **figures: Any) -> Check:
    return Check(name, "failed", sentence, remedy, figures)


def not_possible(name: str, sentence: str, remedy: str = "") -> Check:
    return Check(name, "not possible here", sentence, remedy)
