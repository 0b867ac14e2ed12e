"""The objective of a study decides which trial is the best."""

from __future__ import annotations

from dataclasses import replace

from vram_search.report.figures import ranked
from vram_search.report.sentences import top_sentence
from vram_search.report.sweet_spot import beside_best
from vram_search.spec.objective import recorded_objective
from vram_search.store import Store, StudyRecord, TrialResult

BITS = "bits_per_byte"


def start(store: Store, study: StudyRecord, number: int) -> int:
    return store.start_trial(study.id, number, {}, seed=0, data_hash="d1")


def test_bits_per_byte_rank_trials_whose_eval_loss_says_otherwise(
    store: Store, study: StudyRecord
) -> None:
    coarse = TrialResult("complete", eval_loss=2.0, objective=BITS, objective_value=0.5)
    fine = TrialResult("complete", eval_loss=1.0, objective=BITS, objective_value=0.7)
    for number, result in enumerate((fine, coarse)):
        store.finish_trial(start(store, study, number), result)
    top = store.top_trials(study.id)
    assert [trial.number for trial in top] == [1, 0]
    assert [trial.number for trial in ranked(store.trials(study.id))] == [1, 0]
    assert "Trial 1 is the best: bits_per_byte 0.5000" in top_sentence(
        top[0], beside_best(top[1], top[0], {}), is_comparable=True
    )
    assert replace(top[0], objective_value=None).value is None


def test_a_record_without_an_objective_was_searched_by_eval_loss() -> None:
    assert recorded_objective({}).name == "eval_loss"
    assert recorded_objective({"identity": {"objective": "bits_per_byte"}}).unit.startswith("bits")
