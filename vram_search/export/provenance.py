"""Writes the comments at the top of an exported file, which name its origin."""

from __future__ import annotations

from typing import Any

from vram_search.export.trial import ExportedTrial
from vram_search.spec.card import Card
from vram_search.store import TrialRecord
from vram_search.units import format_bytes

_FIGURES = {
    "required_bytes": "VRAM needed",
    "allocated_bytes": "allocated",
    "reserved_bytes": "reserved",
    "process_bytes": "process",
}
"""Byte figures of a trial with their words in the glossary."""


def provenance(exported: ExportedTrial, chat_template: str) -> list[str]:
    """Returns lines without comment signs: study, trial, meaning of losses and bytes, versions."""
    study, trial, card = exported.study, exported.record, exported.card
    when = trial.finished_at or trial.started_at
    lines = [
        f"study      {study.name}, revision {study.revision}; card {card.label}",
        f"trial      {trial.number}, outcome {trial.outcome or 'running'}, "
        f"of {when:%Y-%m-%d %H:%M} UTC",
        *_loss_lines(trial, exported.eval_cutoff_len),
        *_length_lines(exported),
        *_memory_lines(trial, card),
        f"plan       {exported.plan.label}",
        f"seed       {trial.seed}; data hash {trial.data_hash}",
        f"versions   {_pairs(trial.versions)}",
        f"template   {chat_template}",
    ]
    return [_one_line(line) for line in lines]


def _loss_lines(trial: TrialRecord, eval_cutoff_len: int) -> list[str]:
    if trial.eval_loss is None:
        return ["eval_loss  none was measured"]
    step = "" if trial.eval_loss_step is None else f" (step {trial.eval_loss_step})"
    lines = [
        f"eval_loss  {trial.eval_loss:.4f} nats per answer token, best checkpoint{step}, "
        f"at the study's eval cutoff of {eval_cutoff_len} tokens"
    ]
    if trial.own_cutoff_eval_loss is not None:
        lines.append(
            f"own cutoff {trial.own_cutoff_eval_loss:.4f} at cutoff_len "
            f"{trial.hyperparameters['cutoff_len']}; transformers' Trainer averages over batches, "
            "these figures over tokens"
        )
    if trial.bits_per_byte is not None:
        lines.append(f"bits/byte  {trial.bits_per_byte:.4f}")
    return lines


def _length_lines(exported: ExportedTrial) -> list[str]:
    """The length of an export with `--full`; the loss above belongs to the shorter training."""
    trial = exported.record
    if trial.outcome != "complete" or trial.steps_total or not trial.steps_done:
        return []
    return [f"length     {exported.steps} steps here; the trial trained {trial.steps_done}"]


def _memory_lines(trial: TrialRecord, card: Card) -> list[str]:
    lines = []
    for label, figures, where in (
        ("measured", trial.measured, f"on {trial.device or 'an unnamed device'}"),
        ("predicted", trial.predicted, f"for {card.label}"),
    ):
        known = [
            f"{words} {format_bytes(figures[name])}"
            for name, words in _FIGURES.items()
            if figures and figures.get(name) is not None
        ]
        if known:
            lines.append(f"peak bytes {label} {where}: {', '.join(known)}")
    return lines or ["peak bytes neither predicted nor measured"]


def _pairs(versions: dict[str, Any] | None) -> str:
    return ", ".join(f"{name} {version}" for name, version in (versions or {}).items()) or "unknown"


def _one_line(text: str) -> str:
    """Returns the text as one line of a comment, without characters that YAML forbids."""
    return "".join(sign if sign.isprintable() else " " for sign in text).rstrip()
