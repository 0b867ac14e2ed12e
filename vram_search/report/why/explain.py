"""Why a trial ended as it did, in words and with the figures that decided it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vram_search.report.figures import comparable, ranked
from vram_search.report.why.evidence import Evidence, Facts
from vram_search.report.why.memory import infeasible_facts, oom_facts
from vram_search.report.why.pruned import pruned_facts
from vram_search.report.words import repeat_words
from vram_search.store import TrialRecord
from vram_search.store.retries import MAX_RETRIES, losses_in_a_row
from vram_search.store.skips import SKIPPED
from vram_search.units import format_duration, format_small


@dataclass(frozen=True)
class Reason:
    """The answer.

    Attributes:
        summary: one sentence.
        facts: more of them, the decisive ones first.
        figures: by name; bytes, seconds and nats per token. What is unknown is left out.
        remedy: what would help; empty where nothing is known to.
    """

    summary: str
    facts: tuple[str, ...]
    figures: dict[str, Any]
    remedy: str = ""


def explain(evidence: Evidence) -> Reason:
    """Why the trial ended with its outcome; that nothing ended it, where it is complete or runs."""
    trial, error = evidence.trial, evidence.trial.error or {}
    outcome = trial.outcome or "running"
    facts, figures = _FACTS[outcome](evidence)
    facts = [fact for fact in facts if fact]
    if error.get(SKIPPED):
        facts = []
    if (message := error.get("message")) and not (outcome == "infeasible" and facts):
        facts.insert(0, message)
    if repeated := repeat_words(trial, evidence.repeated):
        facts.append(repeated)
    known = {"stage": error.get("stage"), "step": error.get("step"), **figures}
    return Reason(
        f"trial {trial.number} {_summary(evidence)}{_place(trial)}",
        tuple(facts or ["the record does not say more"]),
        {name: value for name, value in known.items() if value is not None},
        error.get("remedy", ""),
    )


def _summary(evidence: Evidence) -> str:
    outcome = evidence.trial.outcome or "running"
    if (evidence.trial.error or {}).get(SKIPPED):
        return "was pruned: a person skipped it"
    if outcome == "pruned" and evidence.strategy is not None:
        return f"was pruned: {evidence.strategy.pruned_summary}"
    return _SUMMARIES[outcome]


def _place(trial: TrialRecord) -> str:
    """Where it ended, as far as that is recorded."""
    error = trial.error or {}
    stage, step = error.get("stage"), error.get("step")
    if trial.outcome == "infeasible" or not stage:
        return ""
    if stage == "probe" or not step:
        return f", in stage {stage}"
    total = f" of {trial.steps_total}" if trial.steps_total else ""
    return f", in stage {stage} at step {step}{total}"


def _complete(evidence: Evidence) -> Facts:
    trial = evidence.trial
    if trial.value is None:
        return [f"it has no {trial.value_name}: it is ranked nowhere"], {}
    if trial.other_training is not None:
        return [f"its training is {trial.other_training}: its eval_loss is ranked nowhere"], {}
    others = ranked(evidence.trials)
    rank = [other.number for other in others].index(trial.number) + 1
    behind = trial.value - (others[0].value or 0.0)
    facts = [f"{trial.value_name} {trial.value:.4f}, rank {rank} of {len(others)} complete trials"]
    if behind > 0:
        facts.append(f"{behind:.4f} above the best, trial {others[0].number}")
    return facts, {trial.value_name: trial.value, "rank": rank, "complete_trials": len(others)}


def _running(evidence: Evidence) -> Facts:
    return [f"its stage is {evidence.trial.stage or 'plan'}"], {}


def _diverged(evidence: Evidence) -> Facts:
    """The last finite losses, and the learning rates of trials that went well."""
    trial, facts = evidence.trial, []
    figures: dict[str, Any] = {}
    finite = [step for step in evidence.step_losses if step.loss is not None]
    if finite:
        last, lowest = finite[-1], min(finite, key=lambda step: step.loss or 0.0)
        facts.append(
            f"the last finite training loss was {last.loss:.4f} at step {last.step}, the lowest "
            f"{lowest.loss:.4f} at step {lowest.step}"
        )
        figures = {"last_loss": last.loss, "last_loss_step": last.step, "lowest_loss": lowest.loss}
    rate = trial.hyperparameters.get("learning_rate")
    rates = [t.hyperparameters.get("learning_rate") for t in comparable(evidence.trials)]
    known = [other for other in rates if other is not None]
    if rate is not None:
        figures["learning_rate"] = rate
        facts.append(f"its learning_rate was {format_small(rate)}")
    if rate is not None and known:
        figures["complete_learning_rates"] = [min(known), max(known)]
        ends = f"{format_small(min(known))} to {format_small(max(known))}"
        facts[-1] += f"; those of complete trials are {ends}"
    return facts, figures


def _lost(evidence: Evidence) -> Facts:
    """The trial that repeats it, or the reason why none does."""
    trial = evidence.trial
    if trial.provenance is not None:
        return [], {}
    facts = []
    lost = losses_in_a_row(trial, evidence.trials)
    if repeats := evidence.repeats:
        outcome = repeats[-1].outcome or "running"
        facts.append(f"trial {repeats[-1].number} repeats it: {outcome}")
    elif lost > MAX_RETRIES:
        facts.append(f"lost {lost} times in a row, it is not tried again")
    else:
        facts.append("nothing repeats it yet: the next run of the study begins with it")
    spent = sum((trial.seconds or {}).values())
    if spent:
        facts.append(f"it had taken {format_duration(spent)}")
    figures = {"lost_in_a_row": lost, "repeated_by": repeats[-1].number if repeats else None}
    return facts, figures


_SUMMARIES = {
    "complete": "finished",
    "running": "is running: nothing has ended it",
    "pruned": "was pruned: it was stopped early at a rung",
    "oom": "ran out of memory",
    "infeasible": "was not run: it was predicted not to fit",
    "diverged": "diverged",
    "lost": "was lost: its process or machine was cut off",
    "unknown": "was imported, and its files do not say how it ended",
}
_FACTS: dict[str, Callable[[Evidence], Facts]] = {
    "complete": _complete,
    "running": _running,
    "pruned": pruned_facts,
    "oom": lambda evidence: oom_facts(evidence.trial),
    "infeasible": lambda evidence: infeasible_facts(evidence.trial),
    "diverged": _diverged,
    "lost": _lost,
    "unknown": lambda _: ([], {}),
}
