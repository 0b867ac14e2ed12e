"""Requests of a person to skip a running trial: it ends as pruned at its next evaluation."""

from __future__ import annotations

from sqlalchemy import Engine, select

from vram_search.errors import TooLateError
from vram_search.store.database import reading, writing
from vram_search.store.events import append_event
from vram_search.store.records import TrialRecord
from vram_search.store.tables import events

SKIP_ASKED = "trial_skip_asked"
SKIPPED = "skipped"
"""Key of a trial's `error`: a person has skipped it."""


def ask_to_skip(engine: Engine, study: str, trial: TrialRecord) -> None:
    """Asks for the end of a running trial; asking again changes nothing.

    Raises:
        TooLateError: the trial has ended.
    """
    if trial.outcome is not None:
        raise TooLateError(f"trial {trial.number} has ended: it is {trial.outcome}")
    if not is_asked_to_skip(engine, study, trial.number):
        with writing(engine) as connection:
            append_event(connection, SKIP_ASKED, study, trial.number)


def is_asked_to_skip(engine: Engine, study: str, number: int) -> bool:
    """True if a person wants this trial to end."""
    asked = select(events.c.id).where(
        events.c.kind == SKIP_ASKED, events.c.study == study, events.c.trial == number
    )
    with reading(engine) as connection:
        return connection.scalar(asked.limit(1)) is not None
