"""Finds the adapter that a command names: of a trial, of the best one, or of a product run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vram_search.answers.lookup import find_trial
from vram_search.errors import InputError, NotFoundError
from vram_search.store import Store, StudyRecord, TrialRecord
from vram_search.store.adapter_files import check_adapter
from vram_search.store.location import file_name
from vram_search.store.losses import best_example_losses
from vram_search.store.product_runs import ProductRun, product_runs_of
from vram_search.worker.talk import kept_adapter

_PRODUCT_RUN = re.compile(r"p([0-9]{1,18})")


@dataclass(frozen=True)
class KeptAdapter:
    """An adapter on the disk with its record.

    Attributes:
        run: the product run that trained it; None if the search did.
        example_loss_sums: summed nats per evaluation row; empty if they are not recorded.
    """

    study: StudyRecord
    trial: TrialRecord
    run: ProductRun | None
    folder: Path
    example_loss_sums: Sequence[float | None]

    @property
    def eval_loss(self) -> float | None:
        return self.trial.eval_loss if self.run is None else self.run.eval_loss

    @property
    def seed(self) -> int:
        return self.trial.seed if self.run is None else self.run.seed

    @property
    def name(self) -> str:
        """Name of files: "demo-trial-5", or "demo-trial-5-p3" for a product run."""
        trial = f"{file_name(self.study.name)}-trial-{self.trial.number}"
        return trial if self.run is None else f"{trial}-{self.run.name}"

    @property
    def words(self) -> str:
        """The adapter in a sentence: "trial 5", or "trial 5 trained again with seed 43"."""
        words = f"trial {self.trial.number} of study {self.study.name}"
        return words if self.run is None else f"{words}, trained again with seed {self.seed}"


def find_adapter(store: Store, study: StudyRecord, which: str) -> KeptAdapter:
    """Returns the adapter of trial N, of the best trial, or of product run pN.

    Raises:
        InputError: there is no such trial or run, or its adapter is not kept or damaged.
    """
    match = _PRODUCT_RUN.fullmatch(which)
    if match is None:
        trial = find_trial(store, study, which)
        sums = best_example_losses(store, study.id).get(trial.number, ())
        return KeptAdapter(study.of_trial(trial), trial, None, kept_adapter(study, trial), sums)
    runs = {run.id: run for run in product_runs_of(store, study.id)}
    run = runs.get(int(match[1]))
    if run is None:
        there = f"there are: {', '.join(other.name for other in runs.values())}"
        raise NotFoundError(
            f"study {study.name} has no product run {which}",
            there if runs else "`vram-search train best` makes the first one",
        )
    if run.adapter_path is None:
        raise InputError(
            f"product run {which} has no adapter: it did not complete",
            f"train it again: `vram-search train {run.trial_number}`",
        )
    if not Path(run.adapter_path).is_dir():
        raise InputError(
            f"the adapter of product run {which} is gone: there is no folder {run.adapter_path}",
            f"restore the folder, or train it again: `vram-search train {run.trial_number}`",
        )
    check_adapter(
        Path(run.adapter_path),
        f"delete its folder and train it again: `vram-search train {run.trial_number}`",
    )
    trial = find_trial(store, study, str(run.trial_number))
    return KeptAdapter(
        study.of_trial(trial), trial, run, Path(run.adapter_path), run.example_loss_sums
    )
