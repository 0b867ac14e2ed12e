"""Searches side by side until their time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bench.end_to_end.arms import Search
from bench.end_to_end.records import Record

POLL_SECONDS = 0.1


def race(searches: Sequence[Search], seconds: float, add: Callable[[Record], None]) -> None:
    """Waits for the searches, and ends those that are left when the time is over.

    Args:
        seconds: of each search, by its own clock; what ends later is not added.
        add: takes each trial that ended, as it ends.

    Raises:
        VramSearchError: a search has failed; the others are ended with it.
    """

    def add_all(records: Sequence[Record]) -> None:
        for record in records:
            if record.elapsed_seconds <= seconds:
                add(record)

    running = list(searches)
    deadline = max(search.began for search in searches) + seconds
    try:
        while running and time.time() < deadline:
            for search in list(running):
                is_over = search.is_over
                add_all(search.poll())
                if is_over:
                    running.remove(search)
                    add_all(search.close())
            time.sleep(POLL_SECONDS)
    finally:
        for search in running:
            add_all(search.close())
