"""Exports a recorded trial with its study's rows, after checking that these are unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vram_search.data import load_rows
from vram_search.errors import InputError
from vram_search.export.write import DEFAULT_TOOL, write_export
from vram_search.spec.dataset import recorded_dataset
from vram_search.store import StudyRecord, TrialRecord


def at_full_length(
    study: StudyRecord, trial: TrialRecord
) -> tuple[StudyRecord, TrialRecord, float]:
    """Returns study and trial as if the trial trained all of the study's epochs or steps, and the
    share of them that it did train.

    Raises:
        InputError: the study's trials were not shortened.
    """
    training = study.spec.get("training", {})
    share = training.get("trial_share", 1.0)
    if share == 1:
        raise InputError(
            f"the trials of study {study.name} were not shortened: --full would change nothing",
            "leave --full out",
        )
    spec = {**study.spec, "training": {**training, "trial_share": 1.0}}
    return replace(study, spec=spec), replace(trial, steps_total=0, eval_loss_step=None), share


def write_recorded(
    study: StudyRecord,
    trial: TrialRecord,
    folder: Path,
    *,
    to: str = DEFAULT_TOOL,
    template: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Writes a trial's export for the tool `to`; the YAML's path comes first.

    Raises:
        InputError: the trial was imported, the rows are missing or have changed, or the reasons of
            `write_export`.
    """
    study = study.of_trial(trial)
    if study.is_imported:
        raise InputError(
            f"trial {trial.number} of study {study.name} was imported: its rows are not recorded, "
            "so it cannot be exported",
            "use the file that it was started with",
        )
    dataset = recorded_dataset(study.spec, study.name)
    rows = load_rows(dataset, study.spec["seed"])
    if rows.data_hash != trial.data_hash:
        raise InputError(
            f"{dataset.label} has changed since trial {trial.number} was trained on it",
            "restore the rows; the record holds their hash " + trial.data_hash,
        )
    return write_export(
        study,
        trial,
        rows,
        folder,
        to=to,
        template=template,
        model_name_or_path=study.model.get("model_name_or_path"),
        force=force,
    )
