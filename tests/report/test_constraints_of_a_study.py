"""Tables and the report rank the trials that keep the study's constraints."""

from __future__ import annotations

from dataclasses import replace

from vram_search.answers.lookup import find_trial
from vram_search.answers.top import top
from vram_search.report.page.report_data import load_report_data
from vram_search.store import Store, StudyRecord, TrialResult


def test_a_complete_trial_that_breaks_a_constraint_is_not_the_winner(
    store: Store, study: StudyRecord
) -> None:
    limited = replace(study, spec={**study.spec, "constraints": {"max_train_seconds": 60}})
    slow = TrialResult("complete", eval_loss=1.0, seconds={"train": 61.0})
    quick = TrialResult("complete", eval_loss=1.5, seconds={"train": 59.0})
    for number, result in enumerate((slow, quick)):
        row = store.start_trial(study.id, number, {}, seed=0, data_hash="d1")
        store.finish_trial(row, result)
    answer = top(store, limited, rows=10)
    assert [trial.number for trial in answer.trials] == [1]
    assert "break the study's constraints and are not ranked: 1." in answer.sentence
    assert find_trial(store, limited, "best").number == 1
    winner = load_report_data(store, limited).winner
    assert winner is not None and winner.spot.best.number == 1
    assert [trial.number for trial in top(store, study, rows=10).trials] == [0, 1]
