"""Exports a recorded trial with its study's rows, after checking that these are unchanged."""

from __future__ import annotations

from pathlib import Path

from vram_search.data import load_rows
from vram_search.errors import InputError
from vram_search.export.write import DEFAULT_TOOL, write_export
from vram_search.spec.dataset import recorded_dataset
from vram_search.store import StudyRecord, TrialRecord


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
