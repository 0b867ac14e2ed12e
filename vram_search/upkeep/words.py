"""Describes the faults that `db check` found, one sentence for each kind."""

from __future__ import annotations

from vram_search.units import counted, format_bytes
from vram_search.upkeep.check import CheckAnswer

SHOWN = 5
"""Items of one kind that are named; the others are counted."""


def fault_lines(found: CheckAnswer) -> list[str]:
    """Everything that `db repair` can correct or a person has to."""
    lines = []
    if found.integrity:
        lines.append(f"SQLite finds the file damaged: {listed(found.integrity)}")
    if found.foreign_keys:
        rows = counted(len(found.foreign_keys), "row refers", "rows refer")
        lines.append(f"{rows} to a missing row: {listed(found.foreign_keys)}")
    for row in found.damaged:
        where = f"study {row.study}" if row.trial is None else f"trial {row.trial} of {row.study}"
        lines.append(f"{where}: damaged values: {listed(row.values)}")
    if found.leftovers:
        size = format_bytes(sum(one.size_bytes for one in found.leftovers))
        folders = counted(len(found.leftovers), "folder", "folders")
        names = listed([one.path for one in found.leftovers])
        lines.append(f"{folders} of killed trainings ({size}) that no trial keeps: {names}")
    if missing := [one for one in found.missing_adapters if not one.is_foreign]:
        names = listed([f"trial {one.trial} of {one.study}" for one in missing])
        lines.append(f"adapters that the record names are gone: {names}")
    if found.optuna_problem:
        lines.append(f"Optuna's tables cannot be used: {found.optuna_problem}")
    for study in found.optuna_foreign:
        lines.append(f"Optuna's tables hold another study of the name {study}: it is not ours")
    if found.files_problem:
        lines.append(f"the folder of the files could not be checked: {found.files_problem}")
    for one in found.disagreements:
        lines.append(
            f"trial {one.trial} of {one.study}: recorded as {one.recorded}, in Optuna's tables "
            f"{one.in_optuna}"
        )
    return lines


def note_lines(found: CheckAnswer) -> list[str]:
    """Everything that needs no repair, or that a run corrects by itself."""
    lines = []
    if found.version != found.newest_version:
        lines.append(
            f"tables of version {found.version}; the next command that may write brings them to "
            f"{found.newest_version}"
        )
    for dead in found.dead:
        lines.append(
            f"trial {dead.trial} of {dead.study} was cut off in {dead.stage or 'plan'}; the next "
            "run repeats it"
        )
    if pending := [one for one in found.optuna if one.is_pending]:
        names = listed([f"trial {one.trial} of {one.study}" for one in pending])
        lines.append(f"the next run reports to Optuna: {names}")
    for one in found.missing_adapters:
        if one.is_foreign:
            lines.append(f"the adapter of trial {one.trial} of {one.study} is not at {one.path}")
    return lines


def listed(items: list[str]) -> str:
    """The first items, and how many more there are."""
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {more} more" if more > 0 else "")
