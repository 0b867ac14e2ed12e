"""The answer at the top of the report: the trial to use, its settings, and what became of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from vram_search.report.figures import required_bytes, run_seconds
from vram_search.report.page.report_data import ReportData
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.store import TrialRecord
from vram_search.units import format_bytes, format_duration, percent

OUTCOME_WORDS = {
    "complete": "finished",
    "pruned": "stopped early",
    "infeasible": "would not fit (not run)",
    "oom": "out of memory",
    "diverged": "diverged",
    "lost": "lost",
    "unknown": "unknown",
    "running": "running",
}
_NOT_COPIED = ("batch_size",)
"""Named otherwise in a training file: micro-batch x accumulation."""


@dataclass(frozen=True)
class Hero:
    """The answer in short.

    Attributes:
        facts: (name, value) pairs: loss, VRAM, time.
        settings: (name, value) rows of the trial's settings.
        settings_yaml: the settings and the memory plan with LLaMA-Factory's keys.
        command: writes the complete training file.
    """

    title: str
    lead: str
    facts: list[tuple[str, str]]
    settings: list[tuple[str, str]]
    settings_yaml: str
    command: str


def hero(data: ReportData) -> Hero | None:
    """Builds the answer; None if no trial is complete."""
    winner, trial = data.winner, data.best
    if winner is None or trial is None:
        return None
    facts = [(winner.spot.best.value_name, f"{winner.loss:.4f}")]
    if winner.untuned_loss and winner.improvement is not None:
        lower = percent(winner.improvement).replace(" ", "\N{NO-BREAK SPACE}")
        facts.append(("untuned model", f"{winner.untuned_loss:.4f} (-{lower})"))
    facts += [
        ("VRAM needed", _vram_words(data, trial)),
        ("time", format_duration(run_seconds(trial))),
    ]
    return Hero(
        title=f"Use trial {trial.number}",
        lead=" ".join(winner.sentences),
        facts=facts,
        settings=_settings(trial),
        settings_yaml=yaml.safe_dump(_training_keys(trial), sort_keys=False),
        command=f"vram-search export {trial.number} --study {data.study.name}",
    )


def outcome_shares(data: ReportData) -> list[tuple[str, str, int]]:
    """Outcome, words and number of trials, for a stacked bar; the usual order of a search."""
    counts: dict[str, int] = {}
    for trial in data.trials:
        counts[trial.outcome or "running"] = counts.get(trial.outcome or "running", 0) + 1
    return [(name, words, counts[name]) for name, words in OUTCOME_WORDS.items() if name in counts]


def _settings(trial: TrialRecord) -> list[tuple[str, str]]:
    hp = trial.hyperparameters
    known = [(one, one.value_in(hp)) for one in DIMENSIONS]
    return [
        (one.name, one.shown(value))
        for one, value in known
        if value is not None and not (one.is_optional and value == one.default)
    ]


def _training_keys(trial: TrialRecord) -> dict[str, Any]:
    plan = {name: value for name, value in (trial.plan or {}).items() if value is not None}
    hp = {k: v for k, v in trial.hyperparameters.items() if k not in _NOT_COPIED and v is not None}
    return {**hp, **plan}


def _vram_words(data: ReportData, trial: TrialRecord) -> str:
    size, origin = required_bytes(trial)
    if size is None:
        return "unknown"
    limit = "" if data.limit_bytes is None else f" of {format_bytes(data.limit_bytes)}"
    return f"{format_bytes(size)}{limit} ({origin})"
