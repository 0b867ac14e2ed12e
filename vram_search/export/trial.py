"""Prepares a recorded trial for export to any tool, in our own terms."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from vram_search.data import Rows
from vram_search.errors import InputError
from vram_search.estimate.planner import Longest
from vram_search.export.dataset import check_exportable
from vram_search.export.fields import LORA_MODULES
from vram_search.export.template import Template
from vram_search.models import find_on_this_machine
from vram_search.spec.card import Card
from vram_search.spec.hyperparameters import adapter_settings
from vram_search.spec.lora_targets import LORA_TARGET_SETS, is_expression
from vram_search.spec.model_tree import ModelTree
from vram_search.spec.name_rule import NAME_FORM, is_valid_name
from vram_search.spec.plan import MemoryPlan
from vram_search.spec.point import Hyperparameters
from vram_search.spec.shape import ModelShape
from vram_search.spec.steps import count_steps
from vram_search.spec.study import TrainingSpec
from vram_search.store import StudyRecord, TrialRecord

MOST_EVALUATIONS = 20
"""Most evaluations that a tool makes; each takes time that the trial did not need."""


@dataclass(frozen=True)
class ExportedTrial:
    """A trial that can be trained elsewhere.

    Attributes:
        name: `<study>-trial-<N>`, the beginning of its files' names.
        model: folder or hub name.
        shape: the model's shape; None if it is not known here.
        steps: optimizer steps of the whole run.
        eval_steps: optimizer steps between evaluations.
        eval_cutoff_len: tokens at which the study's evaluation texts were cut.
        longest: the longest rows as the trial cut them; the cutoffs if it did not record them.
        evaluates: True if the tool evaluates during the training.
        template: the tool renders the rows with it; None if it reads the tokenizer's own.
        evaluation_bytes: allocated bytes predicted for the tool's evaluation if that is the peak of
            the run.
    """

    name: str
    study: StudyRecord
    record: TrialRecord
    rows: Rows
    model: str
    shape: ModelShape | None
    hp: Hyperparameters
    plan: MemoryPlan
    training: TrainingSpec
    steps: int
    eval_steps: int
    eval_cutoff_len: int
    longest: Longest
    evaluates: bool = True
    evaluation_bytes: int | None = None
    template: Template | None = None

    @property
    def modules(self) -> Collection[str]:
        """Names of the model's linear layers; if its shape is not known, those of all supported
        families."""
        if self.shape is None:
            return LORA_MODULES
        qualified = self.target_modules if self._names_real_layers else ()
        return {*self.shape.linear_kinds, *qualified}

    @property
    def wrapper(self) -> ModelTree | None:
        """The module tree of a model of several parts; None for a model of text alone."""
        tree = None if self.shape is None else self.shape.tree
        return tree if tree is not None and tree.has_other_parts else None

    @property
    def seed(self) -> int:
        return self.record.seed

    @property
    def prompt_date(self) -> date:
        """The date in the trial's prompts: the study's or, for older records, the trial's day."""
        own = self.study.spec["dataset"].get("date")
        if own is not None:
            return date.fromisoformat(own)
        return self.record.finished_at or self.record.started_at

    @property
    def tokenizer(self) -> str | None:
        """The tokenizer; None if it is the model's own."""
        name: str | None = self.study.spec["model"]["tokenizer"]
        return name

    @property
    def card(self) -> Card:
        return Card.model_validate(self.study.spec["card"])

    @property
    def adapter_settings(self) -> dict[str, Any]:
        """The LoRA adapter's settings but for its layers and its start, under our names."""
        settings = adapter_settings(self.hp)
        settings.pop("init_lora_weights", None)
        return settings

    def initial_weights(self, *methods: str) -> dict[str, str]:
        """Returns the setting of the adapter's start if the tool has this method on a base in NF4,
        under peft's name; otherwise nothing."""
        method = self.hp.init_lora_weights
        return {"init_lora_weights": method} if method in methods else {}

    def initial_weights_note(self, title: str, *methods: str) -> list[str]:
        """Returns a sentence if the tool cannot start an adapter as the trial did."""
        method = self.hp.init_lora_weights
        if method == "default" or method in methods:
            return []
        return [
            f"{title} cannot start an adapter by {method} on a base in 4 bits: the trial's",
            f"init_lora_weights {method} is not applied.",
        ]

    @property
    def loraplus(self) -> dict[str, float]:
        """The key of LoRA+, as LLaMA-Factory and Axolotl spell it; empty for plain LoRA."""
        ratio = self.hp.loraplus_lr_ratio
        return {} if ratio == 1 else {"loraplus_lr_ratio": ratio}

    @property
    def dtype(self) -> str:
        """The dtype that the card computes in, as torch names it."""
        return "bfloat16" if self.card.has_bf16 else "float16"

    @property
    def warmup_steps(self) -> int:
        """Warm-up steps, rounded as `train.trainer.warmup_steps` does."""
        return math.ceil(self.training.warmup_ratio * self.steps)

    @property
    def _names_real_layers(self) -> bool:
        """The target's layers are looked up in the model."""
        if self.shape is None:
            return False
        return self.shape.tree is not None or is_expression(self.hp.lora_target)

    @property
    def target_modules(self) -> tuple[str, ...]:
        """Names of the LoRA modules; `("all",)` for every linear layer of a modelled family.

        Other models' layers are named one by one: a tool's own `all` may reach the vision tower.
        """
        target = self.hp.lora_target
        if self.shape is not None and self._names_real_layers:
            return tuple(self.shape.target_modules(target))
        return LORA_TARGET_SETS.get(target, tuple(target.split(",")))


def exported_trial(
    study: StudyRecord,
    trial: TrialRecord,
    rows: Rows,
    *,
    model_name_or_path: str | None = None,
    shape: ModelShape | None = None,
) -> ExportedTrial:
    """Prepares a record for export to any tool.

    Args:
        model_name_or_path: replaces the study's model, for example by the folder made from a GGUF
            file.
        shape: the model's shape.

    Raises:
        InputError: the trial has no plan, other tools cannot read the model, or the rows are not
            the trial's or contain something that no tool accepts.
    """
    if trial.plan is None:
        raise InputError(
            f"trial {trial.number} of {study.name} has no memory plan: nothing was found that fits",
            "export a trial that ran; `best` names one",
        )
    if rows.data_hash != trial.data_hash:
        raise InputError(
            f"the rows have changed since trial {trial.number} (data hash {rows.data_hash}, "
            f"the trial's is {trial.data_hash})",
            "restore the data set",
        )
    check_exportable(rows)
    plan = MemoryPlan.model_validate(trial.plan)
    hp = Hyperparameters.model_validate(trial.hyperparameters)
    training = TrainingSpec.model_validate(study.spec["training"]).of_point(hp)
    eval_cutoff_len = training.eval_cutoff_len or max(study.spec["search_space"]["cutoff_len"])
    predicted = trial.predicted or {}
    steps = trial.steps_total or count_steps(training, plan, len(rows.train))
    return ExportedTrial(
        name=export_name(study, trial),
        study=study,
        record=trial,
        rows=rows,
        model=_model(study, model_name_or_path),
        shape=shape,
        hp=hp,
        plan=plan,
        training=training,
        steps=steps,
        eval_steps=eval_interval(trial.eval_loss_step or steps, training.rungs[:1], steps),
        eval_cutoff_len=eval_cutoff_len,
        longest=Longest(
            predicted.get("longest_tokens", trial.hyperparameters["cutoff_len"]),
            predicted.get("longest_eval_tokens", eval_cutoff_len),
        ),
    )


def study_shape(study: StudyRecord, model: str | None) -> ModelShape | None:
    """Returns the shape of the study's model; None if it is not known here.

    Args:
        model: folder or hub name.
    """
    if model is None:
        return None
    with contextlib.suppress(InputError):
        found = find_on_this_machine(study.spec["model"]["shape"] or model)
        return found.shape() if found else None
    return None


def export_name(study: StudyRecord, trial: TrialRecord) -> str:
    """Returns the name `<study>-trial-<N>`.

    Raises:
        InputError: the recorded study has a name that no study file can have.
    """
    if not is_valid_name(study.name):
        raise InputError(f"the study name {study.name!r} cannot name a file", NAME_FORM)
    return f"{study.name}-trial-{trial.number}"


def _model(study: StudyRecord, instead: str | None) -> str:
    spec = study.spec["model"]
    name: str | None = instead or spec["model_name_or_path"]
    if spec["weights"] == "random" or name is None:
        raise InputError(
            f"study {study.name} has random weights: there is no model to train",
            "name one under model.model_name_or_path and run the study",
        )
    if name.endswith(".gguf"):
        raise InputError(
            f"{name}: no GGUF file can be trained by other tools",
            "name the folder that was made from it as the model",
        )
    return name


def eval_interval(best_step: int, first_rung: Sequence[float], steps_total: int) -> int:
    """Returns the steps between evaluations, so that one of them is at the trial's best checkpoint.

    Other tools evaluate only at multiples. Of the divisors of `best_step` that make no more than
    MOST_EVALUATIONS evaluations, the one nearest to the study's first rung is chosen.
    """
    wanted = round((first_rung[0] if first_rung else 1.0) * steps_total)
    divisors = [step for step in range(1, best_step + 1) if best_step % step == 0]
    few = [step for step in divisors if steps_total // step <= MOST_EVALUATIONS]
    return min(few or [best_step], key=lambda step: abs(step - wanted))
