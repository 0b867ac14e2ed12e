"""`export --full`: a winner of shortened trials is exported with all of its epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vram_search.data import Rows
from vram_search.errors import InputError
from vram_search.export.recorded import at_full_length
from vram_search.export.write import write_export
from vram_search.store import StudyRecord, TrialRecord


def written(
    study: StudyRecord, trial: TrialRecord, rows: Rows, folder: Path
) -> tuple[dict[str, Any], str]:
    file = write_export(study, trial, rows, folder)[0]
    text = file.read_text("utf-8")
    return yaml.safe_load(text), text


def test_full_export_trains_all_steps_and_says_so(
    make_study: Any, make_trial: Any, rows: Rows, tmp_path: Path
) -> None:
    study = make_study(training={"max_steps": 40, "trial_share": 0.25})
    trial = make_trial(steps_total=10, steps_done=10, eval_loss_step=10)
    short, said = written(study, trial, rows, tmp_path / "short")
    assert short["max_steps"] == 10
    assert "the trial trained" not in said
    study, trial, share = at_full_length(study, trial)
    full, said = written(study, trial, rows, tmp_path / "full")
    assert share == 0.25
    assert full["max_steps"] == 40
    assert "40 steps here; the trial trained 10" in said


def test_full_is_refused_where_nothing_was_shortened(make_study: Any, make_trial: Any) -> None:
    with pytest.raises(InputError, match="were not shortened"):
        at_full_length(make_study(), make_trial())
