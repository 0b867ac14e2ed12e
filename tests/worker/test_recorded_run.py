"""Each run of a study is recorded with its end, and summarised: hours, what they bought, faults."""

from __future__ import annotations

from typing import Any

import pytest

from tests.factories import make_point
from vram_search.answers.night import NightAnswer, last_night
from vram_search.errors import VramSearchError
from vram_search.store import Store, StudyRecord, TrialResult
from vram_search.store.retries import INTERRUPTED
from vram_search.store.runs import KILLED, RunRecord, latest_run
from vram_search.worker.recorded_run import recorded_run


def add_trial(store: Store, study: StudyRecord, outcome: Any, **result: Any) -> None:
    number = len(store.trials(study.id))
    point = make_point().model_dump(mode="json")
    trial_id = store.start_trial(study.id, number, point, seed=1, data_hash="d1")
    store.finish_trial(trial_id, TrialResult(outcome, **result))


def run_of(store: Store, study: StudyRecord) -> RunRecord:
    found = latest_run(store, study.id)
    assert found is not None
    return found


def night_of(store: Store, study: StudyRecord) -> NightAnswer:
    found = last_night(store, study)
    assert found is not None
    return found


def test_a_study_of_an_older_version_has_no_summary(store: Store, study: StudyRecord) -> None:
    add_trial(store, study, "complete", eval_loss=1.0)
    assert latest_run(store, study.id) is None and last_night(store, study) is None


def test_the_summary_counts_the_trials_of_this_run_alone(store: Store, study: StudyRecord) -> None:
    add_trial(store, study, "complete", eval_loss=1.5, seconds={"train": 1000.0})
    with recorded_run(store, study.id) as run:
        run.seconds.update(waiting=60.0, load=30.0, eval=10.0)
        add_trial(store, study, "complete", eval_loss=1.25, seconds={"train": 300.0, "eval": 20.0})
        add_trial(store, study, "pruned", seconds={"train": 100.0, "probe": 5.0, "imports": 2.0})
        killed = {"stage": "train", "message": "it was killed"}
        add_trial(store, study, "lost", seconds={"lost": 50.0}, error=killed)
        add_trial(store, study, "lost", seconds={"lost": 50.0}, error=killed)
        run.stopped = "the time is used up"
    night = night_of(store, study)
    assert night.outcomes == {"complete": 1, "pruned": 1, "lost": 2}
    assert night.seconds == {
        "training": 400.0,
        "evaluation": 30.0,
        "probe": 5.0,
        "loading": 32.0,
        "lost": 100.0,
        "waiting": 60.0,
    }
    assert (night.best_before, night.best_after, night.best_trial) == (1.5, 1.25, 1)
    assert night.faults == ["2 times lost in train: it was killed"]
    assert night.sentences[0].endswith(
        "(the time is used up): 4 trials (1 complete, 1 pruned, 2 lost)"
    )
    assert "best eval_loss 1.2500 (trial 1), before 1.5000" in night.sentences


def test_a_run_that_found_nothing_better_says_so(store: Store, study: StudyRecord) -> None:
    add_trial(store, study, "complete", eval_loss=1.5)
    with recorded_run(store, study.id):
        add_trial(store, study, "complete", eval_loss=1.75)
    night = night_of(store, study)
    assert night.best_after == 1.5 and night.best_trial is None
    assert "no trial was better than the best before, eval_loss 1.5000" in night.sentences


def test_the_error_that_ends_a_run_is_recorded_with_its_remedy(
    store: Store, study: StudyRecord
) -> None:
    with (
        pytest.raises(VramSearchError),
        recorded_run(store, study.id),
    ):
        raise VramSearchError("the GPU has failed: GPU is lost", "restart the machine")
    night = night_of(store, study)
    assert night.stopped == "the GPU has failed: GPU is lost"
    assert night.sentences[-1] == "remedy: restart the machine"


def test_ctrl_c_is_recorded(store: Store, study: StudyRecord) -> None:
    with pytest.raises(KeyboardInterrupt), recorded_run(store, study.id):
        raise KeyboardInterrupt
    assert run_of(store, study).stopped == "interrupted by Ctrl-C"


def test_trial_that_ctrl_c_ended_is_no_fault(store: Store, study: StudyRecord) -> None:
    with pytest.raises(KeyboardInterrupt), recorded_run(store, study.id):
        add_trial(store, study, "lost", error={"stage": "load", "message": INTERRUPTED})
        raise KeyboardInterrupt
    night = night_of(store, study)
    assert night.faults == []
    assert "trial 0 was interrupted; the next run continues it" in night.sentences
    assert not any("fault" in sentence for sentence in night.sentences)


def test_a_run_that_was_killed_is_closed_by_the_next_one(store: Store, study: StudyRecord) -> None:
    killed = recorded_run(store, study.id)
    killed.__enter__()
    first = run_of(store, study)
    assert first.ended_at is None and first.stopped is None
    with recorded_run(store, study.id):
        second = run_of(store, study)
        assert second.id == first.id + 1
    with store.engine.connect() as connection:
        stopped = connection.exec_driver_sql("SELECT stopped FROM vs_runs ORDER BY id").scalars()
        assert next(iter(stopped)) == KILLED
