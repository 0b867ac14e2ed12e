"""Repeats a question to Optuna's tables after the database server was out of reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from vram_search.store import Store
from vram_search.store.database import OUTAGE_POLL_SECONDS, OUTAGE_SECONDS
from vram_search.store.faults import UnreachableError, search_errors

T = TypeVar("T")


def through_outages(store: Store, question: Callable[[], T]) -> T:
    """Returns the answer of a question that may be asked twice.

    Raises:
        UnreachableError: the server does not come back.
    """
    deadline = time.monotonic() + OUTAGE_SECONDS
    while True:
        try:
            with search_errors(store.engine.url):
                return question()
        except UnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(OUTAGE_POLL_SECONDS)
