"""A trial that a person skips ends at its next evaluation and is not trained again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from vram_search.store import Store
from vram_search.store.database import writing
from vram_search.store.events import append_event
from vram_search.store.skips import SKIP_ASKED

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_skipped_trial_is_pruned_says_why_and_the_search_goes_on(
    store: Store, write_study: Callable[..., Path], vram_search_without_training: Cli
) -> None:
    with writing(store.engine) as connection:
        append_event(connection, SKIP_ASKED, "tiny", 1)
    done = vram_search_without_training("run", write_study(budget={"trials": 4}))
    assert done.returncode == 0, done.stdout
    study = store.study("tiny")
    assert study is not None
    first, skipped, *others = store.trials(study.id)
    assert first.outcome == "complete"
    assert (skipped.outcome, len(store.evaluations(skipped.id))) == ("pruned", 1)
    assert len(others) == 2
    assert skipped.hyperparameters not in [other.hyperparameters for other in others]
    why = vram_search_without_training("why", "1").stdout
    assert "a person skipped it" in why
    assert "promised" not in why
