"""Hands the checkpoint of a lost trial to the trial that repeats it, and deletes unneeded ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vram_search.store import TrialRecord
from vram_search.store.kept_files import delete_kept
from vram_search.store.location import trial_folder
from vram_search.store.retries import may_retry


def checkpoint_folder(root: Path, number: int) -> Path:
    """Returns the folder of a trial's checkpoint.

    Args:
        root: folder of the study's checkpoints.
    """
    return root / trial_folder(number)


def cut_off_trial(
    root: Path, trials: Sequence[TrialRecord], retry_of: int | None
) -> TrialRecord | None:
    """Returns the lost trial with whose checkpoint a repetition goes on; None if there is none.

    It is the nearest one: a repetition may have been lost before it took over the checkpoint.

    Args:
        retry_of: number of the trial that is repeated.
    """
    by_number = {trial.number: trial for trial in trials}
    while retry_of is not None and (trial := by_number.get(retry_of)) is not None:
        if trial.outcome != "lost":
            return None
        if checkpoint_folder(root, trial.number).is_dir():
            return trial
        retry_of = trial.retry_of
    return None


def hand_over_checkpoint(root: Path, giver: int, taker: int) -> None:
    """Moves a checkpoint from one trial to another, which has none of its own."""
    remove_checkpoint(root, taker)
    checkpoint_folder(root, giver).rename(checkpoint_folder(root, taker))


def remove_checkpoint(root: Path, number: int) -> None:
    """Deletes a trial's checkpoint, if it has one."""
    delete_kept(root.parents[1], checkpoint_folder(root, number))


def remove_unneeded_checkpoints(
    root: Path, trials: Sequence[TrialRecord], alive: Sequence[int] = ()
) -> None:
    """Deletes all checkpoints but those with which a repetition will go on.

    Args:
        alive: numbers of trials that other workers run.
    """
    running = {checkpoint_folder(root, number) for number in alive}
    for folder in unneeded_checkpoints(root, trials):
        if folder not in running:
            delete_kept(root.parents[1], folder)


def unneeded_checkpoints(root: Path, trials: Sequence[TrialRecord]) -> list[Path]:
    """Returns the folders of all checkpoints with which no repetition will go on."""
    repeated = {trial.retry_of for trial in trials}
    waiting = [
        trial.number
        for trial in trials
        if trial.outcome == "lost" and trial.number not in repeated and may_retry(trial, trials)
    ]
    givers = [cut_off_trial(root, trials, number) for number in waiting]
    needed = {checkpoint_folder(root, giver.number) for giver in givers if giver is not None}
    found = root.iterdir() if root.is_dir() else ()
    return sorted(folder for folder in found if folder not in needed)
